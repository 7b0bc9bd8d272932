"""impls/ts-wasm prints what llama2.c prints, for every row length, and refuses what does not fit its memory."""

import pytest

from .node_programs import NodeProgram, WithKernel, assert_rejected
from .tiny import TINY, header


@pytest.fixture(scope="module")
def program():
    return NodeProgram("ts-wasm")


class TestProgram(WithKernel):
    kind, kernel = "wasm", "kernel.wasm"


def test_the_module_imports_memory_and_nothing_else(program):
    script = "const m = new WebAssembly.Module(require('fs').readFileSync(process.argv[1]));"
    script += "console.log(WebAssembly.Module.imports(m).map((i) => i.kind).join())"
    assert program.script("-e", script, program.out / "kernel.wasm") == "memory\n"


def test_a_model_beyond_32_bits_is_refused_before_it_is_read(program, tmp_path):
    path = tmp_path / "model.bin"
    with open(path, "wb") as file:
        file.write(header(TINY))
        file.truncate(2**32 + 1000)  # sparse
    assert_rejected(program.run(path), "4294967296")


def test_many_small_layers_fit(program, tmp_path):
    """Each array starts at an aligned address: the gaps of 3,000 layers of two values must have been reserved."""
    sizes = TINY | {"dim": 2, "hidden_dim": 1, "n_layers": 3000, "n_heads": 1, "n_kv_heads": 1}
    floats = 300 * 2 + 3000 * (2 * 2 + 4 * 4 + 3 * 2) + 2
    path = tmp_path / "model.bin"
    path.write_bytes(header(sizes) + bytes(4 * floats))
    assert_rejected(program.run(path, "-z", "/nonexistent"), "/nonexistent")
