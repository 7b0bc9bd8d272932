"""Ports of the catalogue as implementations in this process: what they print, through the judges' one door."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness import tokenizer
from harness.adapters.in_process import InProcess
from harness.adapters.manifest import Manifest
from harness.diagnosis import Port, PortCrashed, by_name, faulted
from harness.diagnosis import Request as Question
from harness.errors import Crashed
from harness.models import load
from harness.results import Observation

_RUN = ("run", "{model}", "-z", "{tokenizer}", "-t", "{temperature}", "-p", "{topp}", "-s", "{seed}", "-n", "{steps}")


def manifest(**more: Any) -> Manifest:
    claims = {"formats": ("llama2c-v0", "llama2c-v2"), "conventions": "llama2.c"}
    return Manifest(path=Path("impl.toml"), name="port", run=(*_RUN, "-i", "{prompt}"), **{**claims, **more})


@dataclass
class Ported(InProcess):
    """A port with a fault of the catalogue, or without any; text only."""

    port: Port = field(default_factory=Port)
    manifest: Manifest = field(default_factory=manifest)
    n_runs: int = 0

    def run(self, request, limits=None, *, trace=None):
        self.n_runs += 1
        asked = Question(
            request.prompt or b"",
            steps=request.steps,
            temperature=request.temperature,
            topp=request.topp,
            seed=request.seed,
        )
        command = (str(request.model), "-n", str(request.steps))
        try:
            model = load(request.model, request.tokenizer)
            whole = replace(model, vocabulary=tokenizer.read(request.tokenizer))  # surplus pieces too
            text = self.port.answer(whole, asked).text
        except PortCrashed as crash:
            return Observation(command, "", b"", failure=Crashed(str(crash)))
        return Observation(command, "", text)


def ported(fault=None, **more):
    return Ported(Port() if fault is None else faulted(by_name(fault)), manifest(**more))
