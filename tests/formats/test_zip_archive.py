"""Zip archives: Python's own view of what we write, how PyTorch's and numpy's look, and directories that lie."""

import struct
import zipfile

import numpy as np
import pytest

from harness.errors import CheckpointError
from harness.formats import npz, torch_zip, zip_archive
from harness.formats.files import mapped


def entries(path):
    return zip_archive.entries(mapped(path), path)


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "m.zip"
    with path.open("wb") as file, zip_archive.Writer(file) as writer:
        writer.add("top/data.pkl", b"K\x01.")
        with writer.entry("top/data/0", 400) as entry:
            entry.write(bytes(range(200)))
            entry.write(bytes(200))
    return path


def test_what_is_written_is_a_zip_file_with_aligned_data(archive):
    with zipfile.ZipFile(archive) as file:
        assert file.testzip() is None
        assert file.read("top/data/0") == bytes(range(200)) + bytes(200)
    found = entries(archive)
    assert list(found) == ["top/data.pkl", "top/data/0"]
    content = mapped(archive)
    for entry in found.values():
        offset = entry.__array_interface__["data"][0] - content.__array_interface__["data"][0]
        assert offset % 64 == 0


def test_64_bit_fields_are_read(tmp_path):
    path = tmp_path / "wide.zip"
    with zipfile.ZipFile(path, "w") as file, file.open("a/data/0", "w", force_zip64=True) as entry:
        entry.write(b"12345678")
    assert entries(path)["a/data/0"].tobytes() == b"12345678"
    content = bytearray(path.read_bytes())
    central = content.rindex(b"PK\x01\x02")
    # The same archive with every number of the directory's entry in its 64-bit field.
    wide = struct.pack("<2H3Q", 1, 24, 8, 8, 0)
    entry = content[central : content.rindex(b"PK\x05\x06")]
    name = entry[46 : 46 + 8]
    entry[20:28] = b"\xff" * 8
    entry[42:46] = b"\xff" * 4
    entry[30:32] = struct.pack("<H", len(wide))
    entry = entry[:46] + name + wide
    end = struct.pack("<IQ2H2I4Q", 0x06064B50, 44, 45, 45, 0, 0, 1, 1, len(entry), central)
    locator = struct.pack("<2IQI", 0x07064B50, 0, central + len(entry), 1)
    last = struct.pack("<I4H2IH", 0x06054B50, 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    path.write_bytes(content[:central] + entry + end + locator + last)
    assert entries(path)["a/data/0"].tobytes() == b"12345678"


def test_compressed_entries_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "m.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a/data.pkl", b"0" * 100)
    with pytest.raises(CheckpointError, match="compressed or encrypted"):
        entries(tmp_path / "m.zip")


CENTRAL = {
    "flags": (8, "<H"),
    "method": (10, "<H"),
    "packed": (20, "<I"),
    "unpacked": (24, "<I"),
    "local": (42, "<I"),
}


@pytest.mark.parametrize(
    ("field", "value", "what"),
    [
        ("flags", 1, "encrypted"),
        ("method", 8, "compressed"),
        ("packed", 399, "compressed"),
        ("unpacked", 1 << 31, "compressed|beyond"),
        ("local", 0, "overlap|beyond|not where|checksum"),
        ("local", 1 << 31, "said to be at"),
        ("local", 5, "not where"),
    ],
)
def test_directories_that_lie_are_refused(field, value, what, archive):
    content = bytearray(archive.read_bytes())
    at, code = CENTRAL[field]
    struct.pack_into(code, content, content.rindex(b"PK\x01\x02") + at, value)
    archive.write_bytes(content)
    with pytest.raises(CheckpointError, match=what):
        entries(archive)


@pytest.mark.parametrize(
    ("at", "code", "value"), [(10, "<H", 60000), (12, "<I", 1 << 30), (16, "<I", 1 << 30), (16, "<I", 3)]
)
def test_ends_that_lie_are_refused(at, code, value, archive):
    content = bytearray(archive.read_bytes())
    struct.pack_into(code, content, content.rindex(b"PK\x05\x06") + at, value)
    archive.write_bytes(content)
    with pytest.raises(CheckpointError, match="zip archive is damaged"):
        entries(archive)


def test_an_entry_that_is_there_twice_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as file:
        file.writestr("a", b"1")
        with pytest.warns(UserWarning, match="Duplicate"):
            file.writestr("a", b"2")
    with pytest.raises(CheckpointError, match="twice"):
        entries(tmp_path / "m.zip")


def test_a_pickle_whose_checksum_is_wrong_is_refused(archive):
    content = bytearray(archive.read_bytes())
    content[content.index(b"K\x01.") + 1] = 2
    archive.write_bytes(content)
    with pytest.raises(CheckpointError, match="checksum"):
        torch_zip.load(archive)


def test_every_truncation_is_refused(archive):
    whole = archive.read_bytes()
    for n in range(len(whole)):
        archive.write_bytes(whole[:n])
        with pytest.raises(CheckpointError):
            torch_zip.load(archive)


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (["data.pkl"], "no one data.pkl"),
        (["a/data.pkl", "b/data.pkl"], "no one data.pkl"),
        (["a/b/data.pkl"], "no one"),
    ],
)
def test_a_pickle_is_in_the_top_directory(names, what, tmp_path):
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as file:
        for name in names:
            file.writestr(name, b"\x80\x02}.")
    with pytest.raises(CheckpointError, match=what):
        torch_zip.load(tmp_path / "m.zip")


def test_big_endian_numbers_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as file:
        file.writestr("a/byteorder", b"big")
        file.writestr("a/data.pkl", b"\x80\x02}.")
    with pytest.raises(CheckpointError, match="big-endian"):
        torch_zip.load(tmp_path / "m.zip")


@pytest.mark.parametrize(
    ("arrays", "what"),
    [
        ({"x": np.zeros(3, np.float32)}, 'no "config"'),
        ({"config": np.zeros(3, np.float32)}, '"config" is no text'),
        ({"config": np.frombuffer(b"{}", np.uint8)}, "configuration is impossible"),
        ({"config": np.frombuffer(b'{"dim": 1.5}', np.uint8)}, "configuration is impossible"),
        ({"config": np.array([{}], object)}, "another header"),
        ({"config": np.asfortranarray(np.zeros((2, 2), np.uint8))}, "another header"),
    ],
)
def test_npz_files_that_lie_are_refused(arrays, what, tmp_path):
    np.savez(tmp_path / "m.npz", **arrays)
    with pytest.raises(CheckpointError, match=what):
        npz.read(tmp_path / "m.npz")


@pytest.mark.parametrize("huge", ["n_layers", "seq_len", "dim"])
def test_an_npz_that_says_huge_numbers_costs_nothing(huge, tmp_path):
    config = {"dim": 4, "hidden_dim": 4, "n_layers": 1, "n_heads": 1, "n_kv_heads": 1, "vocab_size": 4, "seq_len": 4}
    text = repr(config | {huge: 1 << 40}).replace("'", '"').encode()
    np.savez(tmp_path / "m.npz", config=np.frombuffer(text, np.uint8))
    with pytest.raises(CheckpointError, match=r"fewer tensors|is missing"):
        npz.read(tmp_path / "m.npz")
