"""The safetensors container: a file worked by hand, the library's view, and headers that lie."""

import json
import struct

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from harness.errors import CheckpointError
from harness.formats import safetensors


def file_of(path, header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_a_file_worked_by_hand(tmp_path):
    header = {"__metadata__": {"k": "v"}, "b": entry("BF16", (2,), (8, 12)), "a": entry("F32", (1, 2), (0, 8))}
    data = struct.pack("<2f", 1.5, -2.0) + bytes.fromhex("803f 00c0")
    tensors, metadata = safetensors.read(file_of(tmp_path / "m", header, data))
    assert metadata == {"k": "v"}
    assert list(tensors) == ["a", "b"]  # in the order of the file
    assert tensors["a"].values().tolist() == [[1.5, -2.0]]
    assert tensors["b"].values().tolist() == [1.0, -2.0]


def test_the_library_reads_ours_and_we_read_the_librarys(tmp_path):
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    header = safetensors.header_bytes([("x", (2, 3), "float32"), ("y", (0, 3), "float16")], k="v")
    (tmp_path / "ours").write_bytes(header + values.tobytes())
    theirs = load_file(tmp_path / "ours")
    assert np.array_equal(theirs["x"], values)
    assert theirs["y"].shape == (0, 3)
    save_file({"x": values, "h": values.astype(np.float16)}, tmp_path / "theirs", metadata={"k": "v"})
    tensors, metadata = safetensors.read(tmp_path / "theirs")
    assert metadata == {"k": "v"}
    assert np.array_equal(tensors["x"].values(), values)
    assert np.array_equal(tensors["h"].values(), values)


HUGE = 1 << 62


@pytest.mark.parametrize(
    ("header", "data", "what"),
    [
        ({"a": entry()}, b"1234567", "cut short"),
        ({"a": entry()}, b"123456789", "bytes follow"),
        ({"a": entry(offsets=(4, 12))}, b"0" * 12, "a hole"),
        ({"a": entry(), "b": entry(offsets=(4, 12))}, b"0" * 12, "overlaps"),
        ({"a": entry(), "b": entry()}, b"0" * 8, "overlaps"),
        ({"a": entry(shape=(3,))}, b"0" * 8, "another length"),
        ({"a": entry(shape=(HUGE, HUGE), offsets=(0, 8))}, b"0" * 8, "another length"),
        ({"a": entry(shape=(HUGE,), offsets=(0, 4 * HUGE))}, b"0" * 8, "impossible"),
        ({"a": entry(shape=(HUGE // 4,), offsets=(0, HUGE))}, b"0" * 8, "cut short"),
        ({"a": entry(shape=(-2,))}, b"0" * 8, "impossible"),
        ({"a": entry(shape=(2.0,))}, b"0" * 8, "impossible"),
        ({"a": entry(shape=(True, 2))}, b"0" * 8, "impossible"),
        ({"a": entry(shape=[1] * 8 + [2])}, b"0" * 8, "impossible"),
        ({"a": entry(offsets=(8, 0))}, b"0" * 8, "another length"),
        ({"a": entry(dtype="F33")}, b"0" * 8, "unknown type"),
        ({"a": entry(dtype=["F32"])}, b"0" * 8, "unknown type"),
        ({"a": {"dtype": "F32", "shape": [2]}}, b"0" * 8, "lacks"),
        ({"a": 5}, b"", "lacks"),
        ({"__metadata__": {"k": 1}}, b"", "no table of strings"),
        ({"__metadata__": "k"}, b"", "no table of strings"),
        (b"[1, 2]", b"", "no table"),
        (b"{" * 9, b"", "cannot be read"),
        (b'{"a": ' + b"[" * 200_000, b"", "cannot be read|too deeply"),
        (b'{"a": 1, "a": 2}', b"", "stands twice"),
        (b'{"a": ' + b"9" * 5000 + b"}", b"", "cannot be read"),
        (b"\xff\xfe{}", b"", "cannot be read"),
    ],
)
def test_headers_that_lie_are_one_clear_error(header, data, what, tmp_path):
    with pytest.raises(CheckpointError, match=what):
        safetensors.read(file_of(tmp_path / "m", header, data))


@pytest.mark.parametrize("length", [0, 1 << 63, 1 << 40, 200_000_000, 3])
def test_a_length_that_lies_is_refused(length, tmp_path):
    with pytest.raises(CheckpointError):
        safetensors.read(file_of(tmp_path / "m", {"a": entry()}, b"0" * 8, length))


def test_every_truncation_is_refused(tmp_path):
    path = file_of(tmp_path / "m", {"a": entry()}, b"0" * 8)
    whole = path.read_bytes()
    for n in range(len(whole)):
        path.write_bytes(whole[:n])
        with pytest.raises(CheckpointError):
            safetensors.read(path)
