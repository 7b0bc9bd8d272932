"""Adopt a program: find how it wants to be called, by calling it, and write its manifest.

    found = adopt(["./their-port/run"])
    print(found.outcome, found.manifest_toml)

Each trial runs the program on an embedded model whose greedy continuation is known. Common shapes are tried, and
those that the program's own usage text suggests. A trial is a success if the text is the reference's. Where none is,
the model is given in other forms (containers, exact expansions, tokenizer layouts); and where still none is, that
shape counts whose output depends on the model, the prompt and the steps as it should: a port with a bug must be
adoptable, for it is the one that needs judging.

Then everything that the program does not need is taken away again, its other habits are measured, and the manifest is
written, each choice with what showed it.

    options   what a program says of its arguments, mined
    shapes    ways of calling, and forms of a model
    reading   an output compared with the reference's text
    trials    one call, and what came of it
    search    which calls are made, in which order
    minimal   what is not needed, taken away
    habits    what the manifest says, and why
"""

from __future__ import annotations

import enum
import os
import tempfile
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.adapters.manifest import FILE_NAME, Manifest
from harness.adapters.process import Limits
from harness.conformance.adopt.habits import SCRIPTS, Evidence, Habits
from harness.conformance.adopt.minimal import minimal
from harness.conformance.adopt.search import NotStarted, Search
from harness.conformance.adopt.trials import Progress, Trial, Trials
from harness.errors import InputError
from harness.models import ModelFiles, locate

__all__ = ["Adoption", "Evidence", "Outcome", "Trial", "adopt", "default_path", "limits"]


def limits(time_s: float = 10.0) -> Limits:
    """Return what a trial may use: little, for the models are small."""
    return Limits(time_s=time_s, output_bytes=1 << 20, memory_bytes=4 << 30)


TRIAL_LIMITS = limits()


class Outcome(enum.StrEnum):
    """How an adoption ended."""

    REPRODUCES = "its text is the reference's"
    DIFFERS = "it runs, but its text is not the reference's"
    NOT_FOUND = "no way of calling it was found"
    NOT_STARTED = "it cannot be started"


@dataclass(frozen=True, slots=True)
class Adoption:
    """What was found.

    Attributes:
        outcome: how it ended.
        manifest_toml: the manifest; empty if there is none.
        evidence: the reasons for what it says, in the order in which they were found.
        trials: every run, in order.
        promising: where nothing was found, the trial that came nearest.
    """

    outcome: Outcome
    manifest_toml: str
    evidence: list[Evidence]
    trials: list[Trial]
    promising: Trial | None = None


def adopt(
    command: Sequence[str],
    *,
    models: Sequence[ModelFiles] | None = None,
    limits: Limits = TRIAL_LIMITS,
    progress: Progress | None = None,
    path: Path | None = None,
) -> Adoption:
    """Find how a program is called and write its manifest.

    Args:
        command: the program, or an interpreter and a script, with arguments that are always there.
        models: a float32 model of version 0 with grouped heads, and an int8 one; the embedded ones if not given.
        limits: of each trial.
        progress: told what is being tried, a line at a time.
        path: where the manifest will stand, which decides how it names the program; `default_path` if not given.

    Raises:
        InputError: the command is empty, or names a script that is not there.
    """
    command = list(command)
    _check(command)
    files = list(models) if models is not None else [locate("gqa"), locate("gqa-q8")]
    target = Path(path or default_path(command)).absolute()
    with tempfile.TemporaryDirectory(prefix="harness-adopt-") as directory:
        trials = Trials(command, files, limits, progress or (lambda line: None), target, Path(directory))
        try:
            found = Search(trials).run()
        except NotStarted:
            return Adoption(Outcome.NOT_STARTED, "", [], trials.done, trials.done[-1])
        if found is None:
            return Adoption(Outcome.NOT_FOUND, "", [], trials.done, trials.nearest())
        habits = Habits(trials, minimal(trials, found))
        text = habits.manifest()
        Manifest.model_validate({**tomllib.loads(text), "path": target})
        outcome = Outcome.REPRODUCES if found.is_success else Outcome.DIFFERS
        return Adoption(outcome, text, habits.evidence, trials.done)


def default_path(command: Sequence[str]) -> Path:
    """Return where the manifest of a command belongs: beside the program or script, else in the working directory."""
    own = [word for word in command[1:] if Path(word).is_file()]
    if not own and "/" in command[0]:
        own = [command[0]]
    for word in own:
        directory = Path(word).absolute().parent
        if os.access(directory, os.W_OK):
            return directory / FILE_NAME
    return Path.cwd() / FILE_NAME


def _check(command: Sequence[str]) -> None:
    if not command or not command[0]:
        raise InputError("no program was given", hint='harness adopt ./run, or: harness adopt "python x.py"')
    for word in command[1:2]:
        if Path(word).suffix in SCRIPTS and not word.startswith("-") and not Path(word).exists():
            raise InputError("there is no such script", path=word)
