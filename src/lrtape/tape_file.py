"""A tape as a Parquet file, which outlives the spool: ``docs/tape.md`` tells its fields.

pyarrow, which comes with mlflow, is imported when a tape is written or read: many commands do neither.
"""

import json
from array import array
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from operator import le
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrtape.errors import SpoolError
from lrtape.tape import Point, Series, Tape

if TYPE_CHECKING:
    import pyarrow

VERSION = 1
"""Of the format. A reader refuses a newer one."""
ROW_GROUP_POINTS = 100_000
"""Points in memory while a tape is written: about 10 MB."""

_METADATA = b"lrtape"


def write_tape(path: Path, points: Iterable[Point], notes: Mapping[str, Any]) -> None:
    """Write points to a file, in the order in which they come; the memory it takes does not grow with their number.

    The file appears in one piece, in place of any that was there. Takes about 1.5 microseconds a point.

    Args:
        path: the file; its folder exists.
        points: values of any kind are kept bit for bit, NaN and infinity too.
        notes: what else a reader should know, as JSON can write it.

    Raises:
        TypeError: JSON cannot write `notes`.
        OSError: the file cannot be written.
    """
    import pyarrow.parquet

    about = json.dumps({"version": VERSION, "notes": dict(notes)})
    schema = _schema().with_metadata({_METADATA: about.encode()})
    new = path.with_name(f"{path.name}.new")
    try:
        with pyarrow.parquet.ParquetWriter(
            new,
            schema,
            compression="zstd",
            # A dictionary of floats would not be sure to keep the bits of NaN; steps and times grow by little.
            use_dictionary=["key"],
            column_encoding={
                "step": "DELTA_BINARY_PACKED",
                "time_ms": "DELTA_BINARY_PACKED",
                "value": "BYTE_STREAM_SPLIT",
            },
        ) as writer:
            code_of: dict[str, int] = {}
            remaining = iter(points)
            while group := list(islice(remaining, ROW_GROUP_POINTS)):
                writer.write_batch(_record_batch(group, code_of, schema))
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def read_tape(path: Path) -> Tape:
    """Read a whole file as a `Tape`; takes about 0.3 microseconds, and 24 bytes, a point.

    Raises:
        SpoolError: the file is not a tape of this version, or is damaged.
        FileNotFoundError: there is no such file.
    """
    by_key: dict[str, Series] = {}
    for key, part in read_parts(path):
        series = by_key.setdefault(key, Series())
        series.steps.extend(part.steps)
        series.times_ms.extend(part.times_ms)
        series.values.extend(part.values)
    return Tape.of({key: _in_order(key, series) for key, series in by_key.items()})


def read_parts(path: Path) -> Iterator[tuple[str, Series]]:
    """Yield the rows of a file, some hundred thousand after the other, by key, in the order in which they were written.

    Raises:
        SpoolError: see `read_tape`.
        FileNotFoundError: there is no such file.
    """
    import pyarrow

    file, _ = _opened(path)
    with file:
        try:
            for batch in file.iter_batches(batch_size=ROW_GROUP_POINTS):
                for key, columns in _by_key(batch):
                    steps, times_ms, values = columns
                    yield key, Series(array("q", steps), array("q", times_ms), array("d", values))
        except (pyarrow.ArrowException, OSError) as error:
            raise SpoolError(f"{path} must be a whole tape, but cannot be read ({error}): it is damaged.") from error


def read_notes(path: Path) -> dict[str, Any]:
    """Read the notes of a file, without its points.

    Raises:
        SpoolError: the file is not a tape of this version, or is damaged.
        FileNotFoundError: there is no such file.
    """
    file, notes = _opened(path)
    file.close()
    return notes


def _schema() -> "pyarrow.Schema":
    import pyarrow

    return pyarrow.schema(
        [
            pyarrow.field("key", pyarrow.dictionary(pyarrow.int32(), pyarrow.string()), nullable=False),
            pyarrow.field("step", pyarrow.int64(), nullable=False),
            pyarrow.field("time_ms", pyarrow.int64(), nullable=False),
            pyarrow.field("value", pyarrow.float64(), nullable=False),
        ]
    )


def _record_batch(group: list[Point], code_of: dict[str, int], schema: "pyarrow.Schema") -> "pyarrow.RecordBatch":
    """The columns of some points. `code_of` numbers the keys, and grows: every row group has the keys so far."""
    import pyarrow

    keys, steps, times_ms, values = zip(*group, strict=True)
    codes = array("i", (code_of.setdefault(key, len(code_of)) for key in keys))
    columns = [
        pyarrow.Array.from_buffers(field_type, len(group), [None, pyarrow.py_buffer(column)])
        for field_type, column in (
            (pyarrow.int32(), codes),
            (pyarrow.int64(), array("q", steps)),
            (pyarrow.int64(), array("q", times_ms)),
            (pyarrow.float64(), array("d", values)),
        )
    ]
    columns[0] = pyarrow.DictionaryArray.from_arrays(columns[0], pyarrow.array(list(code_of), pyarrow.string()))
    return pyarrow.record_batch(columns, schema=schema)


def _by_key(batch: "pyarrow.RecordBatch") -> Iterator[tuple[str, list[bytes]]]:
    """The bytes of the columns step, time and value, for each key of a batch, in the order of the batch."""
    import pyarrow.compute

    keys = batch.column("key")
    batch = batch.take(pyarrow.compute.sort_indices(keys.indices))  # which is stable
    columns = [memoryview(batch.column(name).buffers()[1]).cast("q") for name in ("step", "time_ms", "value")]
    begin = 0
    for count in pyarrow.compute.value_counts(batch.column("key").indices):
        code, n_rows = count["values"].as_py(), count["counts"].as_py()
        yield keys.dictionary[code].as_py(), [column[begin : begin + n_rows].tobytes() for column in columns]
        begin += n_rows


def _in_order(key: str, series: Series) -> Series:
    """The same rows, in ascending order of (step, time)."""
    rows, next_rows = (zip(series.steps, series.times_ms, strict=True) for _ in range(2))
    if all(map(le, rows, islice(next_rows, 1, None))):
        return series
    return Tape(Tape.of({key: series}).points())[key]


def _opened(path: Path) -> "tuple[pyarrow.parquet.ParquetFile, dict[str, Any]]":
    """The file, and its notes."""
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except FileNotFoundError:
        raise
    except (pyarrow.ArrowException, OSError) as error:
        raise SpoolError(f"{path} must be a tape, a Parquet file, but is not, or is damaged ({error}).") from error
    try:
        about = json.loads(file.schema_arrow.metadata[_METADATA])
        version, notes = about["version"], dict(about["notes"])
    except (KeyError, TypeError, ValueError):
        file.close()
        raise SpoolError(
            f"{path} must be a tape that lrtape wrote, but is another Parquet file: its metadata has no 'lrtape'."
        ) from None
    if version != VERSION or not file.schema_arrow.equals(_schema()):
        file.close()
        raise SpoolError(
            f"{path} must be a tape of version {VERSION}, but is of version {version} instead. Read it with the lrtape "
            "that wrote it, or with a newer one."
        )
    return file, notes
