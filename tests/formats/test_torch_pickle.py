"""Pickles: what a checkpoint has is read; what would execute anything is refused, and executes nothing."""

import collections
import io
import os
import pickle
import pickletools
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from harness.errors import CheckpointError
from harness.formats import torch_pickle, torch_zip
from harness.formats.torch_pickle import Storage, Tensor


def load(text, tmp_path):
    return torch_pickle.load(text, tmp_path / "data.pkl")


# ---- what is read


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values_are_read_as_python_reads_them(protocol, tmp_path):
    value = {
        "dim": 64,
        "big": 1 << 40,
        "negative": -3,
        "loss": 1.25,
        "text": "é" * 300,
        "none": None,
        "flags": [True, False],
        "nested": {"betas": (0.9, 0.95), "empty": ((), [], {})},
        0: "an optimizer's key",
    }
    assert load(pickle.dumps(value, protocol), tmp_path) == value


def test_shared_and_cyclic_values_are_read(tmp_path):
    shared = [1]
    cyclic = {"a": shared, "b": shared}
    cyclic["self"] = cyclic
    found = load(pickle.dumps(cyclic, 2), tmp_path)
    assert found["a"] is found["b"]
    assert found["self"] is found


def tensor_pickle(*, offset=0, shape=(2, 3), strides=(3, 1), n=6, kind="FloatStorage", key="0"):
    """A pickle of one tensor, in the opcodes that PyTorch writes."""
    numbers = lambda values: b"(" + b"".join(b"\x8a\x08" + struct.pack("<q", v) for v in values) + b"t"  # noqa: E731
    storage = b"(X\x07\0\0\0storagectorch\n" + kind.encode() + b"\nX\x01\0\0\0" + key.encode() + b"X\x03\0\0\0cpu"
    storage += b"\x8a\x08" + struct.pack("<q", n) + b"tQ"
    rest = b"\x8a\x08" + struct.pack("<q", offset) + numbers(shape) + numbers(strides)
    return b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + storage + rest + b"\x89ccollections\nOrderedDict\n)RtR."


def test_a_tensor_is_a_view_of_a_storage(tmp_path):
    found = load(tensor_pickle(), tmp_path)
    assert isinstance(found, Tensor)
    assert found.storage == Storage("float32", "0", 6)
    assert (found.offset, found.shape, found.strides) == (0, (2, 3), (3, 1))


@pytest.mark.parametrize(
    ("what", "changes"),
    [
        ("beyond its storage", {"n": 5}),
        ("beyond its storage", {"offset": 1}),
        ("beyond its storage", {"strides": (4, 1)}),
        ("beyond its storage", {"strides": (1 << 61, 1)}),
        ("beyond its storage", {"shape": (1 << 61, 1 << 61)}),
        ("not made of", {"offset": -1}),
        ("not made of", {"shape": (-2, 3)}),
        ("not made of", {"strides": (1,)}),
        ("not made of", {"shape": (1,) * 9, "strides": (1,) * 9}),
        ("no storage", {"kind": "FloatTensor"}),
        ("no storage", {"n": -6}),
    ],
)
def test_tensors_that_lie_are_refused(what, changes, tmp_path):
    with pytest.raises(CheckpointError, match=what + "|no checkpoint needs"):
        load(tensor_pickle(**changes), tmp_path)


# ---- what executes nothing


class _Reduced:
    """An object whose pickle calls a function."""

    def __init__(self, function, *arguments, state=None):
        self._made = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self._made


def _text(*parts):
    return b"\x80\x02" + b"".join(parts) + b"."


def _named(module, name):
    return f"c{module}\n{name}\n".encode()


def gadgets(canary):
    """Shapes of malicious pickles, by name; each would make the file `canary` if executed."""
    touch = f"open({str(canary)!r}, 'w').close()"
    shell = f"touch {canary}"
    argument = b"X" + struct.pack("<I", len(touch)) + touch.encode()
    command = b"X" + struct.pack("<I", len(shell)) + shell.encode()
    shapes = {
        "os.system": pickle.dumps(_Reduced(os.system, shell), 2),
        "os.popen": pickle.dumps(_Reduced(os.popen, shell), 2),
        "subprocess.Popen": pickle.dumps(_Reduced(subprocess.Popen, ["touch", str(canary)]), 2),
        "subprocess.check_output": pickle.dumps(_Reduced(subprocess.check_output, ["touch", str(canary)]), 2),
        "builtins.eval": pickle.dumps(_Reduced(eval, touch), 2),
        "builtins.exec": pickle.dumps(_Reduced(exec, touch), 2),
        "builtins.exec, protocol 4": pickle.dumps(_Reduced(exec, touch), 4),
        "builtins.exec, protocol 0": pickle.dumps(_Reduced(exec, touch), 0),
        "builtins.getattr": _text(
            _named("__builtin__", "getattr"), _named("os", "path"), b"X\x06\0\0\0systemq\0\x86R"
        ),
        "builtins.__import__": pickle.dumps(_Reduced(__import__, "os"), 2),
        "builtins.compile": pickle.dumps(_Reduced(compile, touch, "x", "exec"), 2),
        "builtins.open": pickle.dumps(_Reduced(open, str(canary), "w"), 2),
        "runpy": _text(_named("runpy", "_run_code"), argument, b"}\x86R"),
        "importlib": _text(_named("importlib", "import_module"), b"X\x04\0\0\0this\x85R"),
        "pickle in a pickle": _text(_named("pickle", "loads"), b"C\x01.\x85R"),
        "torch.load in a pickle": _text(_named("torch.serialization", "load"), command, b"\x85R"),
        "torch.hub": _text(_named("torch.hub", "load"), command, b"\x85R"),
        "numpy's own reconstruct": pickle.dumps(np.arange(3), 2),
        "webbrowser": _text(_named("webbrowser", "open"), command, b"\x85R"),
        "dotted name": _text(b"X\x02\0\0\0osX\x0d\0\0\0path.os.system\x93", command, b"\x85R"),
        "INST": b"\x80\x02(" + command + b"ios\nsystem\n.",
        "OBJ": b"\x80\x02(" + _named("os", "system") + command + b"o.",
        "NEWOBJ": _text(_named("os", "system"), command, b"\x85\x81"),
        "NEWOBJ_EX": b"\x80\x04" + _named("os", "system") + command + b"\x85}\x92.",
        "EXT1": b"\x80\x02\x82\x01.",
        "PERSID": b"\x80\x02Pos.system\n.",
        "a storage called": _text(_named("torch", "FloatStorage"), command, b"\x85R"),
        "an OrderedDict of a call": _text(_named("collections", "OrderedDict"), command, b"\x85R"),
        "a state that calls": _text(_named("collections", "OrderedDict"), b"b"),
        "state into a mark": _text(_named("torch", "Size"), b"}b"),
        "a mark as the function": b"\x80\x02(" + command + b"\x85R.",
        "a tensor as the function": tensor_pickle()[:-1] + command + b"\x85R.",
        "a dict key that is a mark": _text(b"}", _named("torch", "Size"), b"K\x01s"),
        "values left over": _text(_named("torch", "Size"), b"K\x01"),
        "setitem into a list": _text(b"]K\0", command, b"s"),
        "OrderedDict subclass method": _text(_named("collections", "OrderedDict.fromkeys"), command, b"\x85R"),
    }
    assert len(shapes) >= 15
    return shapes


NAMES = list(gadgets("x"))


@pytest.mark.parametrize("name", NAMES)
def test_a_gadget_is_refused_and_executes_nothing(name, tmp_path):
    canary = tmp_path / "canary"
    text = gadgets(canary)[name]
    before = set(sys.modules)
    with pytest.raises(CheckpointError):
        load(text, tmp_path)
    archive = tmp_path / "m.pt"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("archive/data.pkl", text)
    with pytest.raises(CheckpointError):
        torch_zip.load(archive)
    assert not canary.exists()
    assert set(sys.modules) == before


@pytest.mark.parametrize("name", ["os.system", "builtins.exec", "INST", "OBJ", "NEWOBJ_EX"])
def test_the_gadgets_are_live(name, tmp_path):
    """Python's own unpickler executes them: the test above could fail."""
    canary = tmp_path / "canary"
    with io.BytesIO(gadgets(canary)[name]) as file:
        try:
            pickle.load(file)
        except (pickle.UnpicklingError, TypeError):
            assert name == "NEWOBJ_EX"  # NEWOBJ wants a class: refused there as well
            return
    assert canary.exists()


def test_a_global_is_named_in_the_error(tmp_path):
    with pytest.raises(
        CheckpointError, match=r"posix\.system, which no checkpoint needs.*nothing of it was executed"
    ):
        load(pickle.dumps(_Reduced(os.system, "true"), 2), tmp_path)


# ---- what is damaged


def test_every_truncation_and_every_changed_byte_ends_well(tmp_path):
    whole = tensor_pickle()
    for n in range(len(whole)):
        with pytest.raises(CheckpointError):
            load(whole[:n], tmp_path)
    for at in range(len(whole)):
        for value in (0, 0x28, 0x2E, 0x52, 0x71, 0xFF, whole[at] ^ 1):
            text = bytearray(whole)
            text[at] = value
            try:
                load(bytes(text), tmp_path)
            except CheckpointError:
                continue


def test_deep_and_long_values_cost_no_more_than_their_bytes(tmp_path):
    deep = b"\x80\x02" + b"(" * 100_000 + b"t" * 100_000 + b"."
    assert isinstance(load(deep, tmp_path), tuple)
    with pytest.raises(CheckpointError, match="a key is a tuple"):  # hashing it could overflow the stack
        load(b"\x80\x02}" + b"(" * 100_000 + b"t" * 100_000 + b"K\x01s.", tmp_path)
    doubled = b"".join(bytes([*b"0(h", i, *b"h", i, *b"tq", i + 1]) for i in range(60))
    found = load(b"\x80\x02]q\0" + doubled + b".", tmp_path)
    assert found[0] is found[1]  # shared, not copied: 2**60 leaves in some bytes
    with pytest.raises(CheckpointError):
        load(b"\x80\x02X\xff\xff\xff\xff" + b"a" * 10, tmp_path)


def test_opcodes_are_those_of_the_standard(tmp_path):
    by_code = {one.code.encode("latin-1"): one.name for one in pickletools.opcodes}
    assert set(torch_pickle._STEPS) <= set(by_code)
    refused = {"GLOBAL_EXT", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "PERSID", "EXT1", "EXT2", "EXT4"}
    assert not refused & {by_code[code] for code in torch_pickle._STEPS}


def test_ordered_dicts_become_dicts(tmp_path):
    value = collections.OrderedDict(a=1, b=2)
    assert load(pickle.dumps(value, 2), tmp_path) == {"a": 1, "b": 2}
