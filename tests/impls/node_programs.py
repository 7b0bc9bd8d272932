"""What the tests of the three programs that run on Node share: the runtime, runs, the manifest's build, kernels."""

import json
import os
import subprocess
from functools import partial

import pytest

from harness.adapters import toolchain
from harness.adapters.build import build, check_tools
from harness.adapters.manifest import discover
from harness.errors import MissingDependency

from . import contract
from .contract import GOLDEN, HERE, IMPLS
from .tiny import tiny_v0

# Of each kind some: sampled, prompted, odd bytes, separate classifier, chat, int8 with and without straddling groups.
SAMPLE_OF_GOLDENS = ["G1", "G5", "G8", "G12", "G20", "eps-probe", "rev-cls", "C1", "C6", "Q1", "Q2", "Q4", "Q7", "Q9"]


def manifest_of(name):
    [manifest] = [manifest for manifest in discover(IMPLS) if manifest.name == name]
    return manifest


class NodeProgram:
    """One of the implementations, built as its manifest says; the test is skipped where a tool is absent."""

    def __init__(self, name):
        self.manifest = manifest_of(name)
        try:
            check_tools(self.manifest)
            self.out = build(self.manifest)
        except MissingDependency as missing:
            pytest.skip(str(missing))
        self.node = toolchain.tool("node")
        self.env = os.environ | contract.environment_of(self.manifest, self.out)

    def run(self, *args, stdin="", cwd=None, **changes):
        command = [*self.node, str(self.manifest.src / "main.ts"), *map(os.fsencode, map(str, args))]
        return subprocess.run(
            command,
            input=stdin.encode(),
            capture_output=True,
            timeout=60,
            env=self.env | changes,
            cwd=cwd,
            check=False,
        )

    def assert_golden(self, golden, model_path, tok512):
        done = self.run(model_path(golden.model), "-z", tok512, *golden.args, stdin=golden.stdin)
        contract.assert_golden(done, golden)

    def script(self, path, *args, stdin="", **changes):
        command = [*self.node, str(path), *map(str, args)]
        env = os.environ | changes
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=120, env=env, check=False)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
        return done.stdout

    def ask(self, function, calls):
        """Put calls to a function of the program, and return its replies."""
        return json.loads(
            self.script(HERE / "ts_units.mts", stdin=json.dumps({"function": function, "calls": list(calls)}))
        )


assert_rejected = partial(contract.assert_rejected, name="llama")


class WithKernel:
    """What the programs keep whose matrix products are in a file of their own; `program` is a fixture."""

    kind, kernel = "napi", "kernel.node"

    @pytest.mark.parametrize("name", SAMPLE_OF_GOLDENS)
    def test_stdout_is_that_of_llama2c(self, name, program, model_path, tok512):
        program.assert_golden(GOLDEN[name], model_path, tok512)

    def test_the_kernel_is_right_for_every_row_length(self, program):
        said = program.script(HERE / "kernel_check.mts", self.kind, program.out / self.kernel)
        assert said.startswith("ok ")

    def test_wrong_arguments_throw(self, program):
        said = program.script(HERE / f"{self.kind}_arguments.mts", program.out / self.kernel)
        assert said.startswith("ok ")

    def test_a_missing_or_foreign_kernel_is_one_line(self, program, tmp_path):
        foreign = tmp_path / self.kernel
        assert_rejected(program.run("model.bin", LLAMA_KERNEL=str(foreign)), "kernel", str(foreign))
        foreign.write_bytes(b"no kernel")
        assert_rejected(program.run("model.bin", LLAMA_KERNEL=str(foreign)), "kernel")

    def test_hostile_files_are_one_line(self, program, tmp_path):
        whole, end = tiny_v0()
        path = tmp_path / "model.bin"
        for size in (0, 27, 1000, end - 1):
            path.write_bytes(whole[:size])
            assert_rejected(program.run(path), "model.bin")
        assert_rejected(program.run("/nonexistent"), "open")
