import json
import math
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrtape.errors import SpoolError
from lrtape.tape import Point, Tape
from lrtape.tape_file import ROW_GROUP_POINTS, read_notes, read_tape, write_tape

POINTS = st.lists(
    st.builds(
        Point,
        key=st.sampled_from(["lr/a", "lr/ü b", "train/loss"]),
        step=st.integers(0, 2**62),
        time_ms=st.integers(0, 2**45),
        value=st.floats(allow_nan=True, allow_infinity=True),
    ),
    unique_by=lambda point: point[:3],
)
A_NAN_WITH_A_PAYLOAD = struct.unpack("<d", (0x7FF8_0000_DEAD_BEEF).to_bytes(8, "little"))[0]


def bits(tape: Tape) -> dict[str, list[tuple[int, int, bytes]]]:
    return {
        key: [(*point[1:3], struct.pack("<d", point.value)) for point in Tape.of({key: tape[key]}).points()]
        for key in tape
    }


@given(POINTS)
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, points: list[Point]) -> None:
    """Any points, in any order, come back as the tape that they make, keys in their order; none make an empty one."""
    path = tmp_path_factory.mktemp("tape") / "tape.parquet"
    write_tape(path, points, {})

    assert list(read_tape(path)) == list(Tape(points))
    assert bits(read_tape(path)) == bits(Tape(points))


def test_values_are_kept_bit_for_bit(tmp_path: Path) -> None:
    """The payload of a NaN, the sign of a zero, subnormals and infinities."""
    values = [A_NAN_WITH_A_PAYLOAD, math.nan, -math.nan, 0.0, -0.0, 5e-324, math.inf, -math.inf, 1.0000000000000002e-06]
    points = [Point("lr/a", step, step, value) for step, value in enumerate(values)]
    write_tape(tmp_path / "tape.parquet", points, {})

    assert [struct.pack("<d", value) for value in read_tape(tmp_path / "tape.parquet")["lr/a"].values] == [
        struct.pack("<d", value) for value in values
    ]


def test_the_file_has_the_points_in_the_order_given(tmp_path: Path) -> None:
    """For readers other than lrtape, over several row groups, and with a key that comes late."""
    n_points = 2 * ROW_GROUP_POINTS + 10
    points = [Point("lr/late" if step > ROW_GROUP_POINTS else "lr/a", step // 2, step, 0.1) for step in range(n_points)]
    write_tape(tmp_path / "tape.parquet", points, {})
    table = pyarrow.parquet.read_table(tmp_path / "tape.parquet")

    assert table.column_names == ["key", "step", "time_ms", "value"]
    assert list(zip(*(column.to_pylist() for column in table.columns), strict=True)) == points
    assert dict(read_tape(tmp_path / "tape.parquet")) == dict(Tape(points))


def test_points_are_not_gathered_in_memory(tmp_path: Path) -> None:
    """When the last points are asked for, the first are in the file already."""
    sizes = []

    def points() -> Iterator[Point]:
        for step in range(3 * ROW_GROUP_POINTS):
            if step % ROW_GROUP_POINTS == 0:
                sizes.append(sum(path.stat().st_size for path in tmp_path.iterdir()))
            yield Point("lr/a", step, step, math.sin(step))

    write_tape(tmp_path / "tape.parquet", points(), {})

    assert sizes[0] < 100
    assert sizes[1] > 2 * ROW_GROUP_POINTS
    assert sizes[2] > 1.8 * sizes[1]


def test_the_file_appears_in_one_piece(tmp_path: Path) -> None:
    """A writing that fails leaves what was there, and nothing else."""
    path = tmp_path / "tape.parquet"
    write_tape(path, [Point("lr/a", 0, 0, 0.1)], {})
    before = path.read_bytes()

    def failing() -> Iterator[Point]:
        yield from (Point("lr/a", step, 0, 0.2) for step in range(ROW_GROUP_POINTS + 1))
        assert path.read_bytes() == before
        raise OSError("the spool is gone")

    with pytest.raises(OSError, match="the spool is gone"):
        write_tape(path, failing(), {})
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_tape(path, [], {"notes": object()})
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("tape.parquet", before)]


def test_notes_come_back(tmp_path: Path) -> None:
    """Whatever JSON can write, whether there are points or not."""
    notes = {"run_id": "abc", "us_per_step": 2.5, "findings": [{"code": "x", "step": 3}], "end": None}
    write_tape(tmp_path / "tape.parquet", [], notes)

    assert read_notes(tmp_path / "tape.parquet") == notes
    assert dict(read_tape(tmp_path / "tape.parquet")) == {}


def a_parquet_file(path: Path, metadata: dict[str, str] | None) -> None:
    table = pyarrow.table({"key": ["lr/a"], "step": [1], "time_ms": [1], "value": [0.1]})
    pyarrow.parquet.write_table(table.replace_schema_metadata(metadata), path)


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        (None, "has no 'lrtape'"),
        ({"lrtape": "not JSON"}, "has no 'lrtape'"),
        ({"lrtape": "[]"}, "has no 'lrtape'"),
        ({"lrtape": json.dumps({"version": 2, "notes": {}})}, "version 1, but is of version 2"),
        ({"lrtape": json.dumps({"version": 1, "notes": {}})}, "must be a tape of version 1"),
    ],
)
def test_another_parquet_file_is_refused(tmp_path: Path, metadata: dict[str, str] | None, said: str) -> None:
    """One that lrtape did not write, of a later version, or with other columns; by the name of the file."""
    path = tmp_path / "other.parquet"
    a_parquet_file(path, metadata)
    for read in (read_tape, read_notes):
        with pytest.raises(SpoolError, match=r"other\.parquet must be a tape") as raised:
            read(path)
        assert said in str(raised.value)


def test_a_damaged_file_is_never_taken_for_values(tmp_path: Path) -> None:
    """Cut anywhere it is refused, and so is what is no Parquet file; a file that is not there is no damage."""
    path = tmp_path / "tape.parquet"
    write_tape(path, [Point("lr/a", step, step, 0.1) for step in range(1000)], {})
    whole = path.read_bytes()
    for cut in range(0, len(whole), 97):
        path.write_bytes(whole[:cut])
        with pytest.raises(SpoolError, match=str(path)):
            read_tape(path)
    with pytest.raises(FileNotFoundError):
        read_tape(tmp_path / "no_such.parquet")


def test_nothing_is_loaded_before_it_is_needed() -> None:
    """`import lrtape.tape_file` does not load pyarrow."""
    code = "import lrtape.tape_file, sys; print('pyarrow' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ))
    assert out.stdout.strip() == "False"
