"""What the tests of the three programs that run on Node share: the runtime, runs, and the manifest's build."""

import hashlib
import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from harness.adapters import toolchain
from harness.adapters.build import build, check_tools
from harness.adapters.manifest import discover
from harness.errors import MissingDependency

from .llama2c_goldens import GOLDENS

HERE = Path(__file__).parent
IMPLS = HERE.parents[1] / "impls"
GOLDEN = {golden.name: golden for golden in GOLDENS}
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
        self.env = os.environ | {
            key: value.replace("{out}", str(self.out)) for key, value in self.manifest.env.items()
        }

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
        assert done.returncode == 0, done.stderr
        assert hashlib.sha256(done.stdout).hexdigest() == golden.sha256, done.stdout.decode(errors="replace")
        if "chat" in golden.args:
            assert done.stderr == b""
        else:
            assert re.fullmatch(rb"achieved tok/s: (\d+\.\d{6}|inf)\n", done.stderr)

    def script(self, path, *args, stdin=""):
        command = [*self.node, str(path), *map(str, args)]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=120, check=False)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
        return done.stdout

    def ask(self, function, calls):
        """Put calls to a function of the program, and return its replies."""
        return json.loads(
            self.script(HERE / "ts_units.mts", stdin=json.dumps({"function": function, "calls": list(calls)}))
        )


def assert_rejected(done, *words):
    """Exit status 1, one line on stderr that holds the words, nothing on stdout."""
    stderr = done.stderr.decode()
    assert (done.returncode, done.stdout) == (1, b""), stderr
    assert re.fullmatch(r"llama: [^\n]+\n", stderr), stderr
    for word in words:
        assert word in stderr
