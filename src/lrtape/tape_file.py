"""A tape as a Parquet file, which outlives the spool: ``docs/tape.md`` tells its fields.

pyarrow, which comes with mlflow, is imported when a tape is written or read: many commands do neither.
"""

import json
from array import array
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrtape.errors import SpoolError
from lrtape.tape import Point, Series, Tape, in_order

if TYPE_CHECKING:
    import pyarrow

VERSION = 1
"""Of the format. A reader refuses a newer one."""
ROW_GROUP_POINTS = 100_000
"""Points in memory while a tape is written: about 3 MB."""

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
            while len((columns := _columns(islice(remaining, ROW_GROUP_POINTS), code_of))[0]):
                writer.write_batch(_record_batch(columns, code_of, schema))
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
    return Tape.of({key: in_order(series) for key, series in by_key.items()})


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


_Columns = tuple["array[int]", "array[int]", "array[int]", "array[float]"]
"""The codes of keys, steps, times and values of some points."""


def _columns(points: Iterable[Point], code_of: dict[str, int]) -> _Columns:
    """`code_of` numbers the keys, and grows."""
    codes, steps, times_ms, values = array("i"), array("q"), array("q"), array("d")
    for key, step, time_ms, value in points:
        codes.append(code_of.setdefault(key, len(code_of)))
        steps.append(step)
        times_ms.append(time_ms)
        values.append(value)
    return codes, steps, times_ms, values


def _record_batch(columns: _Columns, code_of: dict[str, int], schema: "pyarrow.Schema") -> "pyarrow.RecordBatch":
    """A row group, which has all keys so far."""
    import pyarrow

    n_points = len(columns[0])
    field_types = (pyarrow.int32(), pyarrow.int64(), pyarrow.int64(), pyarrow.float64())
    codes, *others = (
        pyarrow.Array.from_buffers(field_type, n_points, [None, pyarrow.py_buffer(column)])
        for field_type, column in zip(field_types, columns, strict=True)
    )
    keys = pyarrow.DictionaryArray.from_arrays(codes, pyarrow.array(list(code_of), pyarrow.string()))
    return pyarrow.record_batch([keys, *others], schema=schema)


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
