"""The pickles in PyTorch's files, read by an interpreter that can make nothing but plain values and tensors.

A pickle is a program for a stack machine, and in Python's own one it may call anything. Here there is nothing to
call: a global that is not in `_GLOBALS` ends the reading, those that are become inert marks, and "calling" a mark
runs one of the few functions of this module, on values that it has checked. No module is imported, no attribute is
looked up, no object gets a state. Opcodes that such files do not have are refused, too.

    mark                                       "called" with                                  gives
    torch._utils._rebuild_tensor_v2            storage, offset, size, stride, grad, hooks     Tensor
    torch._utils._rebuild_parameter            Tensor, grad, hooks                            the Tensor
    collections.OrderedDict                    nothing                                        a dict
    torch.Size                                 a tuple                                        the tuple
    torch.FloatStorage, ...                    not called; the type in a storage's id

A storage's id is ("storage", mark, key, location, n_elements). The machine's work and memory are bounded by the
pickle's length: every opcode makes at most one value, and no length is believed before it is held against what is
left.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import CheckpointError

__all__ = ["STORAGE_BYTES", "Storage", "Tensor", "load"]

# Storage class of torch -> stored type and bytes of an element.
_STORAGES = {
    "FloatStorage": ("float32", 4),
    "DoubleStorage": ("float64", 8),
    "HalfStorage": ("float16", 2),
    "BFloat16Storage": ("bfloat16", 2),
    "LongStorage": ("int64", 8),
    "IntStorage": ("int32", 4),
    "ShortStorage": ("int16", 2),
    "CharStorage": ("int8", 1),
    "ByteStorage": ("uint8", 1),
    "BoolStorage": ("bool", 1),
    "ComplexFloatStorage": ("complex64", 8),
    "ComplexDoubleStorage": ("complex128", 16),
}
STORAGE_BYTES = dict(_STORAGES.values())
_MAX_DIMENSIONS = 8


@dataclass(frozen=True, slots=True)
class Storage:
    """A run of elements elsewhere in the archive."""

    dtype: str
    key: str
    n_elements: int


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """A view of a storage; offset and strides in elements, checked against its length."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Global:
    name: str


class _Refused(Exception):
    """What the pickle asks for is not done; the message says what."""


_MARK = object()


def load(text: bytes, path: Path) -> Any:
    """Interpret a pickle; return what it describes: dicts, lists, tuples, strings, numbers and Tensors.

    Raises:
        CheckpointError: it is cut short, contradicts itself, or has an opcode or a global that is not of checkpoints.
    """
    machine = _Machine(text)
    try:
        return machine.run()
    except _Refused as error:
        raise CheckpointError(
            f"the pickle is refused: {error}",
            path=path,
            where=f"byte {machine.at:,} of the pickle",
            hint="nothing of it was executed",
        ) from error
    except (IndexError, struct.error, UnicodeDecodeError) as error:
        raise CheckpointError(
            "the pickle is damaged",
            path=path,
            where=f"byte {machine.at:,} of the pickle",
            hint="fetch the file again",
        ) from error


class _Machine:
    """The stack, the memo, and one method for each kind of opcode."""

    def __init__(self, text: bytes) -> None:
        self.text, self.at = text, 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        while True:
            opcode = self.take(1)
            if opcode == b".":
                value = self.pop()
                if self.stack:
                    raise _Refused("it leaves values behind")
                return value
            step = _STEPS.get(opcode)
            if step is None:
                raise _Refused(f"opcode {opcode!r} is not of such files")
            step(self)

    def take(self, n: int) -> bytes:
        found = self.text[self.at : self.at + n]
        if n < 0 or len(found) < n:
            raise IndexError
        self.at += n
        return found

    def number(self, code: str) -> Any:
        return struct.unpack(code, self.take(struct.calcsize(code)))[0]

    def line(self) -> str:
        end = self.text.index(b"\n", self.at) if b"\n" in self.text[self.at : self.at + 512] else -1
        if end < 0:
            raise IndexError
        found = self.text[self.at : end].decode("ascii", "replace")
        self.at = end + 1
        return found

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise _Refused("a mark is where a value should be")
        return value

    def since_mark(self) -> list[Any]:
        for at in range(len(self.stack) - 1, -1, -1):
            if self.stack[at] is _MARK:
                found = self.stack[at + 1 :]
                del self.stack[at:]
                return found
        raise IndexError

    def remember(self, index: int) -> None:
        if not self.stack or self.stack[-1] is _MARK:
            raise IndexError
        self.memo[index] = self.stack[-1]

    def recall(self, index: int) -> None:
        if index not in self.memo:
            raise IndexError
        self.push(self.memo[index])

    def find_global(self, module: str, name: str) -> None:
        full = f"{module}.{name}"
        if full not in _GLOBALS:
            raise _Refused(f"it asks for {full[:120]}, which no checkpoint needs")
        self.push(_Global(full))

    def stack_global(self) -> None:
        name, module = self.pop(), self.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise _Refused("the name of a global is no text")
        self.find_global(module, name)

    def persistent(self) -> None:
        match self.pop():
            case ("storage", _Global(name), str(key), str(), int(n)) if name.startswith("torch.") and n >= 0:
                kind = name.removeprefix("torch.")
                if kind not in _STORAGES:
                    raise _Refused(f"{name} is no storage")
                self.push(Storage(_STORAGES[kind][0], key, n))
            case _:
                raise _Refused("a persistent id is no storage")

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, _Global) or not isinstance(arguments, tuple):
            raise _Refused("it calls what is no function")
        call = _GLOBALS[function.name]
        if call is None:
            raise _Refused(f"it calls {function.name}")
        self.push(call(arguments))

    def build(self) -> None:
        """Drop the state that a state_dict's OrderedDict may carry (its _metadata); nothing else may have one."""
        self.pop()
        if type(self.stack[-1]) is not dict:
            raise _Refused("it gives a state to what has none")

    def set_items(self, pairs: list[Any]) -> None:
        table = self.stack[-1]
        if type(table) is not dict or len(pairs) % 2:
            raise _Refused("items are set in what is no dict")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if not isinstance(key, (str, int, float, type(None))):
                raise _Refused(f"a key is a {type(key).__name__}")
            table[key] = value

    def set_item(self) -> None:
        value, key = self.pop(), self.pop()
        self.set_items([key, value])

    def append(self, values: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise _Refused("it appends to what is no list")
        self.stack[-1].extend(values)

    def tuple_of(self, n: int) -> None:
        if len(self.stack) < n:
            raise IndexError
        self.push(tuple([self.pop() for _ in range(n)][::-1]))

    def protocol(self) -> None:
        if not 2 <= self.number("B") <= 5:
            raise _Refused("it is of another protocol than 2 to 5")


def _natural(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 62


def _tensor(arguments: tuple[Any, ...]) -> Tensor:
    match arguments:
        case (Storage() as storage, offset, tuple(shape), tuple(strides), *_) if (
            _natural(offset) and len(shape) == len(strides) <= _MAX_DIMENSIONS and all(map(_natural, shape + strides))
        ):
            pass
        case _:
            raise _Refused("a tensor is not made of a storage, an offset, a size and strides")
    end = offset + 1 + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if 0 not in shape and end > storage.n_elements:
        raise _Refused(f"a tensor goes beyond its storage: {end:,} of {storage.n_elements:,} elements")
    return Tensor(storage, offset, shape, strides)


def _parameter(arguments: tuple[Any, ...]) -> Tensor:
    if not arguments or not isinstance(arguments[0], Tensor):
        raise _Refused("a parameter is no tensor")
    return arguments[0]


def _dict(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    if arguments not in ((), ([],)):
        raise _Refused("an OrderedDict is made of something")
    return {}


def _size(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(arguments) != 1 or not isinstance(arguments[0], tuple):
        raise _Refused("a size is no tuple")
    return arguments[0]


_GLOBALS: dict[str, Callable[[tuple[Any, ...]], Any] | None] = {
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "collections.OrderedDict": _dict,
    "torch.Size": _size,
    **{f"torch.{kind}": None for kind in _STORAGES},
}

_STEPS: dict[bytes, Callable[[_Machine], None]] = {
    b"\x80": _Machine.protocol,
    b"\x95": lambda m: m.number("<Q") and None,  # a frame: its length says nothing that the opcodes do not
    b"(": lambda m: m.push(_MARK),
    b"0": lambda m: m.pop() and None,
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"J": lambda m: m.push(m.number("<i")),
    b"K": lambda m: m.push(m.number("B")),
    b"M": lambda m: m.push(m.number("<H")),
    b"\x8a": lambda m: m.push(int.from_bytes(m.take(m.number("B")), "little", signed=True)),
    b"G": lambda m: m.push(m.number(">d")),
    b"X": lambda m: m.push(m.take(m.number("<I")).decode("utf-8")),
    b"\x8c": lambda m: m.push(m.take(m.number("B")).decode("utf-8")),
    b"}": lambda m: m.push({}),
    b"]": lambda m: m.push([]),
    b")": lambda m: m.push(()),
    b"t": lambda m: m.push(tuple(m.since_mark())),
    b"\x85": lambda m: m.tuple_of(1),
    b"\x86": lambda m: m.tuple_of(2),
    b"\x87": lambda m: m.tuple_of(3),
    b"a": lambda m: m.append([m.pop()]),
    b"e": lambda m: m.append(m.since_mark()),
    b"s": _Machine.set_item,
    b"u": lambda m: m.set_items(m.since_mark()),
    b"q": lambda m: m.remember(m.number("B")),
    b"r": lambda m: m.remember(m.number("<I")),
    b"\x94": lambda m: m.remember(len(m.memo)),
    b"h": lambda m: m.recall(m.number("B")),
    b"j": lambda m: m.recall(m.number("<I")),
    b"c": lambda m: m.find_global(m.line(), m.line()),
    b"\x93": _Machine.stack_global,
    b"Q": _Machine.persistent,
    b"R": _Machine.reduce,
    b"b": _Machine.build,
}
