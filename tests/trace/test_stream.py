"""The trace stream: the example of docs/trace.md byte for byte, its C writer, round trips, and hostile files."""

from __future__ import annotations

import io
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import TraceFormatError
from harness.trace import stream
from harness.trace.stream import MAGIC, Record, TraceWriter, read_trace, records_of

PAGE = (Path(__file__).parents[2] / "docs/trace.md").read_text("utf-8")


def written(records: list[Record]) -> bytes:
    file = io.BytesIO()
    TraceWriter(file).write(records)
    return file.getvalue()


def example() -> bytes:
    part = PAGE.partition("## A worked example")[2].partition("## How")[0]
    lines = re.findall(r"^    ((?:[0-9a-f]{2} )*[0-9a-f]{2})(?:  |$)", part, re.MULTILINE)
    return b"".join(bytes.fromhex(line) for line in lines)


def test_the_worked_example() -> None:
    ours = written(
        [Record("token", -1, 0, np.array([1.0])), Record("embedding", -1, 0, np.array([0.5, -2.0], np.float32))]
    )
    assert ours == example()
    count = re.search(r"a file of these (\d+) bytes", PAGE)
    assert count
    assert len(ours) == int(count[1])


def test_the_table_of_names_is_that_of_the_reader() -> None:
    table = PAGE.partition("## What to write")[2].partition("## A writer")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == stream.POINTS


def test_the_writer_in_c_writes_what_ours_writes(tmp_path: Path) -> None:
    listing = re.findall(r"^```c\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)[0]
    main = "int main(void) { float id = 1, x[2] = {0.5f, -2.0f};"
    main += 'trace("token", -1, 0, &id, 1); trace("embedding", -1, 0, x, 2); return 0; }\n'
    (tmp_path / "t.c").write_text(listing + main)
    subprocess.run(["cc", "-Wall", "-Werror", "-o", tmp_path / "t", tmp_path / "t.c"], check=True)
    out = tmp_path / "out"
    subprocess.run([tmp_path / "t"], check=True, env={**os.environ, stream.VARIABLE: str(out)})
    assert out.read_bytes() == example()
    out.unlink()
    bare = {key: value for key, value in os.environ.items() if key != stream.VARIABLE}
    subprocess.run([tmp_path / "t"], check=True, env=bare, cwd=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t", "t.c"]


@given(
    records=st.lists(
        st.tuples(
            st.sampled_from(sorted(stream.POINTS)),
            st.integers(0, 5),
            st.integers(0, 9),
            st.lists(st.floats(width=32), max_size=5),
        )
    )
)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, records: list[tuple[str, int, int, list[float]]]
) -> None:
    given_ = [
        Record(name, -1 if name in stream.OUTSIDE else layer, position, np.array(values, np.float32))
        for name, layer, position, values in records
    ]
    path = tmp_path_factory.getbasetemp() / "round"
    path.write_bytes(written(given_))
    found = list(read_trace(path))
    assert len(found) == len(given_)
    for a, b in zip(found, given_, strict=True):
        assert (a.name, a.layer, a.position) == (b.name, b.layer, b.position)
        np.testing.assert_array_equal(a.values, b.values)


def test_scores_end_with_their_token() -> None:
    values = np.arange(2 * 3 * 2).reshape(2, 3, 2)  # tokens, heads, slots
    first, second = records_of("scores", 0, values)
    assert first.values.tolist() == [0, 2, 4]
    assert second.values.tolist() == [6, 7, 8, 9, 10, 11]


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "begins with b''"),
        (b"harness-trace 2\n", "expected b'harness-trace 1"),
        (MAGIC + b"embedding -1 0 2\n\0\0\0\0", "2 values of embedding are announced"),
        (MAGIC + b"embedding -1 0 1000000000\n", "count cannot be"),
        (MAGIC + b"embedding -1 0 -1\n", "count cannot be"),
        (MAGIC + b"embedding 0 0 1\n\0\0\0\0", "layer, position or count cannot be"),
        (MAGIC + b"gate -1 0 1\n\0\0\0\0", "layer, position or count cannot be"),
        (MAGIC + b"gate 0 -1 1\n\0\0\0\0", "layer, position or count cannot be"),
        (MAGIC + b"gates 0 0 1\n\0\0\0\0", "'gates' is no point"),
        (MAGIC + b"gate 0 0\n", "no record begins with"),
        (MAGIC + b"gate  0 0 1\n", "no record begins with"),
        (MAGIC + b"gate 0 x 1\n", "no numbers in"),
        (MAGIC + b"x" * 10_000, "no record begins with"),
        (MAGIC + b"gate 0 0 1\n\0\0\0\0\xff\xfe", "no record begins with"),
    ],
)
def test_what_is_no_trace_is_one_clear_error(tmp_path: Path, content: bytes, word: str) -> None:
    path = tmp_path / "bad"
    path.write_bytes(content)
    with pytest.raises(TraceFormatError, match=re.escape(word)) as caught:
        list(read_trace(path))
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TraceFormatError, match="cannot be read"):
        list(read_trace(tmp_path / "nowhere"))
