"""impls/ts-wasm prints what llama2.c prints, for every row length, and refuses what does not fit its memory."""

import struct

import pytest

from .node_programs import GOLDEN, HERE, SAMPLE_OF_GOLDENS, NodeProgram, assert_rejected
from .test_c import TINY, tiny_v0


@pytest.fixture(scope="module")
def program():
    return NodeProgram("ts-wasm")


@pytest.mark.parametrize("name", SAMPLE_OF_GOLDENS)
def test_stdout_is_that_of_llama2c(name, program, model_path, tok512):
    program.assert_golden(GOLDEN[name], model_path, tok512)


def test_the_kernel_is_right_for_every_row_length(program):
    said = program.script(HERE / "kernel_check.mts", "wasm", program.out / "kernel.wasm")
    assert said.startswith("ok ")


def test_wrong_arguments_throw(program):
    said = program.script(HERE / "wasm_arguments.mts", program.out / "kernel.wasm")
    assert said.startswith("ok ")


def test_the_module_imports_memory_and_nothing_else(program):
    script = "const m = new WebAssembly.Module(require('fs').readFileSync(process.argv[1]));"
    script += "console.log(WebAssembly.Module.imports(m).map((i) => i.kind).join())"
    assert program.script("-e", script, program.out / "kernel.wasm") == "memory\n"


def test_a_missing_or_foreign_kernel_is_one_line(program, tmp_path):
    assert_rejected(program.run("model.bin", LLAMA_KERNEL="/nonexistent.wasm"), "kernel", "/nonexistent.wasm")
    (tmp_path / "foreign.wasm").write_bytes(b"no module")
    assert_rejected(program.run("model.bin", LLAMA_KERNEL=str(tmp_path / "foreign.wasm")), "kernel")


def test_hostile_files_are_one_line(program, tmp_path):
    whole, end = tiny_v0()
    path = tmp_path / "model.bin"
    for size in (0, 27, 1000, end - 1):
        path.write_bytes(whole[:size])
        assert_rejected(program.run(path), "model.bin")
    assert_rejected(program.run("/nonexistent"), "open")


def test_a_model_beyond_32_bits_is_refused_before_it_is_read(program, tmp_path):
    path = tmp_path / "model.bin"
    with open(path, "wb") as file:
        file.write(struct.pack("<7i", *TINY.values()))
        file.truncate(2**32 + 1000)  # sparse
    assert_rejected(program.run(path), "4294967296")


def test_many_small_layers_fit(program, tmp_path):
    """Each array starts at an aligned address: the gaps of 3,000 layers of two values must have been reserved."""
    sizes = TINY | {"dim": 2, "hidden_dim": 1, "n_layers": 3000, "n_heads": 1, "n_kv_heads": 1}
    floats = 300 * 2 + 3000 * (2 * 2 + 4 * 4 + 3 * 2) + 2
    path = tmp_path / "model.bin"
    path.write_bytes(struct.pack("<7i", *sizes.values()) + bytes(4 * floats))
    assert_rejected(program.run(path, "-z", "/nonexistent"), "/nonexistent")
