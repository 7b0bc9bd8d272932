"""harness.checkpoint.llama2c_bin: the three containers, against published files, by property and under attack."""

from __future__ import annotations

import hashlib
import os
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness import checkpoint as checkpoint_files
from harness.checkpoint import Checkpoint, expected_shapes, llama2c_bin, read, sha256_of, write
from harness.errors import CheckpointError
from harness.model_config import ModelConfig
from harness.quant import QuantTensor, error_bound, quantize_weights
from tests.derived_models import DERIVED_SHA256, derive, published
from tests.strategies import checkpoints, quantised

HEADER_FIELDS = ("dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "seq_len")
# dim 6, 3 query heads on 1 key/value head, 2 layers: nothing a power of 2 but the head size.
SMALL = ModelConfig(dim=6, hidden_dim=5, n_layers=2, n_heads=3, n_kv_heads=1, vocab_size=7, seq_len=4)

on_files = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])


def make(config: ModelConfig, seed: int = 0) -> Checkpoint:
    random = np.random.default_rng(seed)
    return Checkpoint(
        config,
        {name: random.standard_normal(shape).astype(np.float32) for name, shape in expected_shapes(config).items()},
    )


def assert_same_tensors(actual: Checkpoint, expected: Checkpoint) -> None:
    """Bit by bit, so that -0.0 is not 0.0."""
    assert actual.config == expected.config
    assert list(actual.tensors) == list(expected_shapes(expected.config))
    for name, tensor in actual.tensors.items():
        other = expected.tensors[name]
        if isinstance(tensor, QuantTensor):
            assert isinstance(other, QuantTensor)
            assert tensor.group_size == other.group_size
            assert np.array_equal(tensor.codes, other.codes), name
            assert tensor.scales.tobytes() == other.scales.tobytes(), name
        else:
            assert not isinstance(other, QuantTensor)
            assert tensor.dtype == other.dtype == np.float32
            assert tensor.tobytes() == other.tobytes(), name


def floats(checkpoint: Checkpoint, name: str) -> np.ndarray:
    tensor = checkpoint.tensor(name)
    assert isinstance(tensor, np.ndarray)
    return tensor


@contextmanager
def little_memory(limit_bytes: int = 1 << 20) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit_bytes
    finally:
        tracemalloc.stop()


def refused(path: Path) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        read(path)
    assert caught.value.path == str(path)
    return caught.value


# --- examples ---


def test_stories260k_has_the_published_dimensions_and_offsets() -> None:
    path = published("stories260K.bin")
    stories = read(path)
    assert stories.config == ModelConfig(64, 172, 5, 8, 4, 512, 512, is_tied=True)
    assert (stories.format, stories.group_size, stories.path) == ("llama2c-v0", None, path)
    stories.validate()
    content = path.read_bytes()
    # Byte offsets of the first layer's tensors, worked out by hand from the layout.
    for name, offset in {
        "tok_embedding": 28,
        "layers.0.attn_norm": 131100,
        "layers.0.wq": 132380,
        "layers.0.wk": 214300,
        "layers.0.wv": 255260,
        "layers.0.wo": 296220,
        "layers.0.ffn_norm": 378140,
        "layers.0.w_gate": 379420,
        "layers.0.w_down": 599580,
        "layers.0.w_up": 819740,
        "final_norm": 1039900,
    }.items():
        tensor = floats(stories, name).tobytes()
        assert content[offset : offset + len(tensor)] == tensor, name
    assert stories.rope_tables is not None
    assert stories.rope_tables[0].tobytes() == content[1040156:1048348]
    assert stories.rope_tables[1].tobytes() == content[1048348:1056540]


@pytest.mark.parametrize(
    ("version", "group_size", "sha256"),
    [
        (0, None, "b0a507e7ad0f626624f17112325e66691f9076d622e1d3274d103d00299f2696"),
        (1, None, "9ab1bf3d0c9900ce357fb38b0f42c3252e0ad478400bf7093efa133c8fa60723"),
        (2, None, "4767083d20669c34b654cd94b60501da98b5e795dab7717e0f1b4f003c02117c"),
        (2, 64, "4767083d20669c34b654cd94b60501da98b5e795dab7717e0f1b4f003c02117c"),
        (2, 32, "5a37d012aaa035c561aa031e5009276d92d1b7ae8f37f0c58e39d9ff56f26a23"),
        (2, 4, "c8c032d04f8a48b2c8f9b708cc571a895d45fe23521f47f542b897d64ad77c50"),
        (2, 2, "c38b26e885073d8ffb434aa2f92fe5bdaca3e42ea7ec659ef5ee5b081d9cecb5"),
        (2, 1, "2a53bcc4956ba7af3df2443c616231eb230d25583b2f5aef260a7b5abd32eb31"),
    ],
)
def test_exports_of_stories260k_are_those_of_upstreams_exporter(
    tmp_path: Path, version: int, group_size: int | None, sha256: str
) -> None:
    stories = read(published("stories260K.bin"))
    write(stories, tmp_path / "out.bin", version=version, group_size=group_size)
    assert sha256_of(tmp_path / "out.bin") == sha256
    again = read(tmp_path / "out.bin")
    again.validate()
    write(again, tmp_path / "again.bin", version=version)
    assert sha256_of(tmp_path / "again.bin") == sha256


def test_the_published_version_1_holds_the_weights_of_version_0() -> None:
    v0, v1 = read(published("stories260K.bin")), read(published("stories260K_v1.bin"))
    assert v1.format == "llama2c-v1"
    assert v1.rope_tables is None
    assert_same_tensors(v1, v0)


@pytest.mark.parametrize(("group_size", "largest"), [(64, 0.0070496), (4, 0.0055582)])
def test_the_largest_quantisation_error_is_the_one_upstream_reports(group_size: int, largest: float) -> None:
    stories = read(published("stories260K.bin"))
    worst = max(
        float(np.abs(quantize_weights(tensor, group_size).dequantize() - tensor).max())
        for tensor in stories.tensors.values()
        if isinstance(tensor, np.ndarray) and tensor.ndim == 2
    )
    assert worst == pytest.approx(largest, rel=1e-5, abs=0)


def test_computed_rope_tables_are_within_one_bit_of_the_stored_ones(tmp_path: Path) -> None:
    stories = read(published("stories260K.bin"))
    write(replace(stories, rope_tables=None), tmp_path / "out.bin", version=0)
    stored, computed = stories.rope_tables, read(tmp_path / "out.bin").rope_tables
    assert stored is not None
    assert computed is not None
    # Figures of the format's description: 113 cosines and 86 sines of 2048 differ, in their last bit.
    for differing, a, b in zip((113, 86), stored, computed, strict=True):
        ulps = np.abs(a.view(np.int32).astype(np.int64) - b.view(np.int32))
        assert np.count_nonzero(ulps) == differing
        assert ulps.max() == 1


@pytest.mark.parametrize("name", DERIVED_SHA256)
def test_derived_models_are_read(name: str, tmp_path: Path) -> None:
    source = published("stories260K.bin")
    stories = read(source)
    made = read(derive(name, source, tmp_path))
    made.validate()
    embedding = floats(stories, "tok_embedding")
    made_embedding = floats(made, "tok_embedding")
    classifier = floats(made, "tok_embedding" if made.config.is_tied else "lm_head")
    assert made.classifier is made.tensor("tok_embedding" if made.config.is_tied else "lm_head")
    swapped = {"eos-swap": 2, "bos-swap": 1, "unk-swap": 0}.get(name)
    if swapped is not None:
        assert made.config == stories.config
        assert np.array_equal(made_embedding[swapped], embedding[426])
        assert np.array_equal(made_embedding[426], embedding[swapped])
    elif name == "seq32":
        assert made.config == replace(stories.config, seq_len=32)
        assert made.rope_tables is None
        assert np.array_equal(classifier, embedding)
    elif name == "eps-probe":
        assert not made.config.is_tied
        assert np.array_equal(made_embedding * np.float32(256), embedding)
        assert np.array_equal(classifier, embedding)
    else:
        assert not made.config.is_tied
        assert np.array_equal(classifier, embedding[::-1])


@pytest.mark.parametrize("name", sorted(set(DERIVED_SHA256) - {"seq32"}))
def test_derived_models_are_rewritten_byte_for_byte(name: str, tmp_path: Path) -> None:
    path = derive(name, published("stories260K.bin"), tmp_path)
    write(read(path), tmp_path / "again.bin", version=0)
    assert sha256_of(tmp_path / "again.bin") == DERIVED_SHA256[name]


def test_a_version_2_file_by_hand(tmp_path: Path) -> None:
    config = ModelConfig(
        dim=2, hidden_dim=1, n_layers=1, n_heads=1, n_kv_heads=1, vocab_size=2, seq_len=9, is_tied=False
    )
    tensors = {name: np.ones(shape, np.float32) for name, shape in expected_shapes(config).items()}
    tensors["tok_embedding"] = np.array([[127, 2], [-254, 1]], np.float32)
    write(Checkpoint(config, tensors), tmp_path / "m.bin", version=2, group_size=2)
    scale = np.float32(1) / np.float32(127)
    vector, square = struct.pack("<2bf", 127, 127, scale), struct.pack("<4b2f", *[127] * 4, scale, scale)
    expected = b"24ka" + struct.pack("<8i", 2, 2, 1, 1, 1, 1, 2, 9) + b"\0" + struct.pack("<i", 2)
    expected = expected.ljust(256, b"\0") + struct.pack("<6f", *[1.0] * 6)
    # 1 / 2 is half a code and goes to the even 0.
    expected += struct.pack("<4b2f", 127, 2, -127, 0, 1, 2)
    expected += 4 * square + 3 * vector + square
    assert (tmp_path / "m.bin").read_bytes() == expected


def test_arrays_are_read_only_views_of_the_file(tmp_path: Path) -> None:
    write(make(SMALL), tmp_path / "m.bin", version=0)
    with little_memory(200_000):
        read(tmp_path / "m.bin")
    wq = read(tmp_path / "m.bin").tensor("layers.0.wq")
    assert isinstance(wq, np.ndarray)
    assert not wq.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        wq[0, 0] = 1


@pytest.mark.parametrize("version", [0, 1, 2])
def test_a_classifier_equal_to_the_embedding_is_written_as_tied(tmp_path: Path, version: int) -> None:
    untied = make(replace(SMALL, is_tied=False))
    same = replace(untied, tensors={**untied.tensors, "lm_head": untied.tensor("tok_embedding")})
    group_size = 3 if version == 2 else None
    write(same, tmp_path / "same.bin", version=version, group_size=group_size)
    assert read(tmp_path / "same.bin").config.is_tied
    assert not same.config.is_tied
    write(untied, tmp_path / "untied.bin", version=version, group_size=group_size)
    assert not read(tmp_path / "untied.bin").config.is_tied


def test_version_0_says_untied_by_a_negative_vocab_size(tmp_path: Path) -> None:
    write(make(replace(SMALL, is_tied=False)), tmp_path / "m.bin", version=0)
    assert struct.unpack("<7i", (tmp_path / "m.bin").read_bytes()[:28]) == (6, 5, 2, 3, 1, -7, 4)


def test_a_tied_version_0_file_may_end_before_the_rope_tables_or_go_on_after_them(tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    made = make(SMALL)
    write(made, path, version=0)
    content = path.read_bytes()
    table_bytes = 2 * 4 * SMALL.seq_len * SMALL.head_dim // 2
    for other in (content[:-table_bytes], content + b"x", content + bytes(4000)):
        path.write_bytes(other)
        again = read(path)
        assert again.rope_tables is None
        assert_same_tensors(again, made)


def test_int8_weights_become_float32_where_the_container_is_float32(tmp_path: Path) -> None:
    write(make(SMALL), tmp_path / "v2.bin", version=2, group_size=3)
    v2 = read(tmp_path / "v2.bin")
    write(v2, tmp_path / "v1.bin", version=1)
    wk = v2.tensor("layers.1.wk")
    assert isinstance(wk, QuantTensor)
    assert np.array_equal(floats(read(tmp_path / "v1.bin"), "layers.1.wk"), wk.dequantize())


def test_a_file_can_be_written_over_itself(tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    write(make(SMALL), path, version=0)
    before = read(path)
    write(before, path, version=1)
    assert_same_tensors(read(path), before)
    assert os.listdir(tmp_path) == ["m.bin"]


def test_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc" * 100_000)
    assert sha256_of(tmp_path / "f") == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_sniff_names_the_container() -> None:
    def head(version: int) -> bytes:
        return struct.pack("<Ii7iB", 0x616B3432, version, 6, 5, 2, 3, 1, 7, 4, 1).ljust(256, b"\0")

    assert llama2c_bin.sniff(head(1)) == "llama2c-v1"
    assert llama2c_bin.sniff(head(2)) == "llama2c-v2"
    assert llama2c_bin.sniff(struct.pack("<7i", 6, 5, 2, 3, 1, -7, 4)) == "llama2c-v0"
    assert llama2c_bin.sniff(struct.pack("<7i", 6, 5, 2, 3, 1, 0, 4)) is None
    assert llama2c_bin.sniff(b"GGUF" + bytes(252)) is None
    assert llama2c_bin.sniff(b"") is None


# --- properties ---


@given(made=checkpoints(), version=st.sampled_from([0, 1]))
@on_files
def test_float_containers_give_back_every_bit(made: Checkpoint, version: int, tmp_path: Path) -> None:
    write(made, tmp_path / "m.bin", version=version)
    again = read(tmp_path / "m.bin")
    assert_same_tensors(again, made)
    write(again, tmp_path / "again.bin", version=version)
    assert (tmp_path / "again.bin").read_bytes() == (tmp_path / "m.bin").read_bytes()
    assert (tmp_path / "m.bin").stat().st_size == (28 if version == 0 else 256) + 4 * (
        made.config.n_params + (made.config.seq_len * made.config.head_dim if version == 0 else 0)
    )


@given(made=checkpoints(), data=st.data())
@on_files
def test_int8_comes_back_within_the_bound_and_is_kept_from_then_on(
    made: Checkpoint, data: st.DataObject, tmp_path: Path
) -> None:
    # dim divides every matrix's element count, whatever the other dimensions are.
    dim = made.config.dim
    group_size = data.draw(st.sampled_from([g for g in range(1, dim + 1) if dim % g == 0]))
    write(made, tmp_path / "m.bin", version=2, group_size=group_size)
    again = read(tmp_path / "m.bin")
    again.validate()
    assert again.group_size == group_size
    for name, tensor in again.tensors.items():
        original = made.tensors[name]
        assert isinstance(original, np.ndarray)
        if isinstance(tensor, QuantTensor):
            error = np.abs(tensor.dequantize(np.float64) - original).reshape(-1, group_size)
            assert (error <= error_bound(tensor.scales)[:, None]).all()
        else:
            assert tensor.tobytes() == original.tobytes()
    assert_same_tensors(again, quantised(made, group_size))
    write(again, tmp_path / "again.bin", version=2)
    assert (tmp_path / "again.bin").read_bytes() == (tmp_path / "m.bin").read_bytes()


# --- hostile input ---


def small_file(tmp_path: Path, version: int, *, is_tied: bool = True) -> tuple[Path, bytes]:
    path = tmp_path / "m.bin"
    write(make(replace(SMALL, is_tied=is_tied)), path, version=version, group_size=3 if version == 2 else None)
    return path, path.read_bytes()


@pytest.mark.parametrize("version", [0, 1, 2])
@pytest.mark.parametrize("is_tied", [True, False])
def test_every_truncation_is_refused(tmp_path: Path, version: int, is_tied: bool) -> None:
    path, content = small_file(tmp_path, version, is_tied=is_tied)
    without_tables = len(content) - 2 * 4 * SMALL.seq_len * SMALL.head_dim // 2
    for length in range(len(content)):
        if version == 0 and is_tied and length == without_tables:
            continue
        path.write_bytes(content[:length])
        refused(path)


@pytest.mark.parametrize(("version", "is_tied"), [(0, False), (1, True), (1, False), (2, True), (2, False)])
def test_bytes_after_the_last_tensor_are_refused(tmp_path: Path, version: int, is_tied: bool) -> None:
    path, content = small_file(tmp_path, version, is_tied=is_tied)
    path.write_bytes(content + b"\0")
    error = refused(path)
    assert error.what == "bytes follow the last tensor"
    assert (error.expected, error.actual) == (f"{len(content):,} bytes", f"{len(content) + 1:,}")


def test_the_first_tensor_that_is_cut_short_is_named(tmp_path: Path) -> None:
    path, content = small_file(tmp_path, 1)
    # Norms 2 * 2 * 6 + 6 floats, embedding 7 * 6, wq 2 * 36, so layer 1's wk (2 x 6) starts at float 156.
    path.write_bytes(content[: 256 + 4 * 156 + 7])
    error = refused(path)
    assert error.what == "tensor layers.1.wk is cut short"
    assert (error.where, error.expected, error.actual) == (f"byte {256 + 4 * 156}", "48 bytes", "7 left")


@pytest.mark.parametrize("version", [0, 1, 2])
@pytest.mark.parametrize("field", HEADER_FIELDS)
@pytest.mark.parametrize("value", [0, -1, -7, 1, 2**20 + 1, 2**31 - 1, -(2**31)])
def test_header_fields_that_lie_are_refused_without_allocating(
    tmp_path: Path, version: int, field: str, value: int
) -> None:
    path, content = small_file(tmp_path, version)
    offset = (0 if version == 0 else 8) + 4 * HEADER_FIELDS.index(field)
    edited = bytearray(content)
    (before,) = struct.unpack_from("<i", content, offset)
    struct.pack_into("<i", edited, offset, value)
    path.write_bytes(edited)
    with little_memory():
        # Only the payload's size can tell. seq_len is in no payload but version 0's, and a tied version 0 file may
        # have a surplus, so there a smaller dimension passes if it goes with the others.
        shrinks = version == 0 and value == 1 and field in ("n_layers", "hidden_dim", "vocab_size")
        is_free = field == "seq_len" and 0 < value <= (4 if version == 0 else 2**24)
        if value == before or shrinks or is_free:
            read(path)
        else:
            refused(path)


def test_a_huge_number_of_layers_costs_no_time(tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    path.write_bytes(struct.pack("<7i", 6, 5, 4096, 3, 1, 7, 4) + bytes(1000))
    with little_memory():
        # The embedding takes 168 of the 1000 bytes, each norm 24.
        assert refused(path).what == "tensor layers.34.attn_norm is cut short"


def test_a_contradictory_header_is_refused_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    path.write_bytes(struct.pack("<7i", 6, 5, 2, 4, 3, 7, 4) + bytes(5000))
    what = refused(path).what
    assert "dim 6 is not a multiple of n_heads 4" in what
    assert "n_heads 4 is not a multiple of n_kv_heads 3" in what


@pytest.mark.parametrize(
    ("offset", "value", "where", "expected"),
    [
        (4, 3, "byte 4", "1 or 2 behind this magic"),
        (4, -1, "byte 4", "1 or 2 behind this magic"),
        (28, -7, "byte 28", "1 to 8,388,608"),
        (36, 2, "byte 36", "0 or 1"),
        (37, 0, None, "at least 1"),
        (37, -3, None, "at least 1"),
        (37, 4, None, "a divisor of 42"),
    ],
)
def test_every_other_fault_of_a_version_2_header_has_its_message(
    tmp_path: Path, offset: int, value: int, where: str | None, expected: str
) -> None:
    path, content = small_file(tmp_path, 2)
    edited = bytearray(content)
    struct.pack_into("<b" if offset == 36 else "<i", edited, offset, value)
    path.write_bytes(edited)
    error = refused(path)
    assert (error.where, error.expected) == (where, expected)


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        (b"GGUF\x03\0\0\0" + bytes(100), "GGUF"),
        (b"PK\x03\x04" + b"archive/data.pkl" * 10, "zip archive"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
        (b"<!DOCTYPE html><html><body>Not found</body></html>", "web page"),
        (struct.pack("<Q", 64) + b'{"__metadata__": {"format": "pt"}}', "safetensors"),
        (b"Once upon a time, there was a file of text.", None),
        (bytes(100), None),
    ],
)
def test_files_of_other_programs_give_one_clear_error(tmp_path: Path, content: bytes, hint: str | None) -> None:
    path = tmp_path / "m.bin"
    path.write_bytes(content)
    error = refused(path)
    assert error.what.startswith("not a llama2.c checkpoint: there is no magic number")
    assert (hint is None and error.hint is None) or (hint in error.hint)  # type: ignore[operator]


@pytest.mark.parametrize("version", [0, 1, 2])
def test_flipped_bits_in_the_header_give_a_checkpoint_or_an_error(tmp_path: Path, version: int) -> None:
    path, content = small_file(tmp_path, version)
    with little_memory():
        for bit in range(8 * (28 if version == 0 else 41)):
            edited = bytearray(content)
            edited[bit // 8] ^= 1 << bit % 8
            path.write_bytes(edited)
            with suppress(CheckpointError):
                read(path).validate()


def test_paths_that_are_no_readable_file_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").touch()
    for path in (tmp_path, tmp_path / "absent", tmp_path / "pipe", tmp_path / "empty", Path("/dev/null")):
        refused(path)
    for path in (tmp_path, tmp_path / "absent", tmp_path / "pipe"):
        with pytest.raises(CheckpointError):
            sha256_of(path)
    with pytest.raises(CheckpointError, match="NUL"):
        read("a\0b")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_refused(tmp_path: Path) -> None:
    path, _ = small_file(tmp_path, 0)
    path.chmod(0)
    assert "Permission denied" in refused(path).what


def _with_layers(checkpoint: Checkpoint, **changes: Any) -> Checkpoint:
    return replace(checkpoint, config=replace(checkpoint.config, **changes))


@pytest.mark.parametrize(
    ("change", "version", "group_size", "message"),
    [
        (lambda c: c, 3, None, "no such llama2.c version"),
        (lambda c: c, 1, 4, "version 2 only"),
        (lambda c: c, 2, 0, "at least 1"),
        (lambda c: c, 2, 4, "a divisor of 42"),
        (lambda c: c, 2, None, "a divisor of 42"),
        (lambda c: _with_layers(c, norm_eps=1e-6), 0, None, "norm_eps"),
        (lambda c: _with_layers(c, rope_theta=500000.0), 1, None, "rope_theta"),
        (lambda c: _with_layers(c, n_layers=3), 0, None, "layers.2.attn_norm is missing"),
        (lambda c: _with_layers(c, seq_len=2**25), 0, None, "seq_len is out of range"),
        (lambda c: quantised(c, 3), 2, 2, "quantised already"),
        (
            lambda c: replace(c, tensors={**c.tensors, "layers.0.wq": np.full((6, 6), np.nan, np.float32)}),
            2,
            3,
            "layers.0.wq cannot be quantised",
        ),
    ],
)
def test_what_the_container_cannot_hold_is_not_written(
    tmp_path: Path,
    change: Callable[[Checkpoint], Checkpoint],
    version: int,
    group_size: int | None,
    message: str,
) -> None:
    with pytest.raises(CheckpointError, match=message):
        write(change(make(SMALL)), tmp_path / "m.bin", version=version, group_size=group_size)
    assert os.listdir(tmp_path) == []


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    path.write_bytes(b"old")
    bad = make(SMALL)
    bad.tensors["layers.1.w_down"][0, 0] = np.inf  # type: ignore[index]
    with pytest.raises(CheckpointError):
        write(bad, path, version=2, group_size=3)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["m.bin"]


def test_places_that_cannot_be_written_are_told(tmp_path: Path) -> None:
    for path in (tmp_path / "absent" / "m.bin", tmp_path, Path("/proc/m.bin")):
        with pytest.raises(CheckpointError, match="cannot be written"):
            write(make(SMALL), path, version=0)


def test_the_public_names_are_a_list() -> None:
    assert set(checkpoint_files.__all__) == {
        "Checkpoint",
        "LazyTensors",
        "Source",
        "Streamed",
        "Tensor",
        "expected_shapes",
        "file_bytes",
        "is_quantised",
        "read",
        "sha256_of",
        "shape_and_dtype",
        "write",
    }
