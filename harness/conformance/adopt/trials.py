"""Trials: the program called in one shape on one form of a model, and what came of it."""

from __future__ import annotations

import functools
import os
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness import checkpoint as checkpoints
from harness.adapters import toolchain
from harness.adapters.implementation import ProcessImplementation
from harness.adapters.manifest import Manifest
from harness.adapters.process import Limits
from harness.conformance.adopt.options import ROLES, looks_like_usage
from harness.conformance.adopt.reading import Oracle, Reading, read
from harness.conformance.adopt.shapes import PLAIN, Form, Shape
from harness.errors import InputError, TimedOut
from harness.models import Model, ModelFiles, load, prepare
from harness.results import Observation, Request

__all__ = ["Progress", "Trial", "Trials", "Tried", "kind_of", "numbers_masked", "quoted", "template"]

_HANGS = 2  # programs that hung this often get less time
_HANGING_S = 2.0
_SLOWER = 4.0  # times the longest run that ended by itself, and a run is no hang yet: the machine may be busy
_MUTE = 6  # as many, all without a byte: nothing will change it
_TEXT_BYTES = 30  # less is hardly a text
_OTHER_PROMPT = b"Tom saw"

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of the program.

    Attributes:
        number: counted from 1.
        shape, form: names of how it was called and what file it was given.
        command: the command line, without the directories of the model.
        outcome: what happened, in a few words.
        stdout, stderr_tail: what it wrote.
    """

    number: int
    shape: str
    form: str
    command: str
    outcome: str
    stdout: bytes
    stderr_tail: str


@dataclass(slots=True)
class Tried:
    """A trial with all that the search wants to know of it."""

    trial: Trial
    shape: Shape
    form: Form
    seen: Observation
    prompted: Reading
    unprompted: Reading
    promise: int = 0

    @property
    def reading(self) -> Reading | None:
        """The reading that is right, if one is."""
        return next((one for one in (self.prompted, self.unprompted) if one.is_right), None)

    @property
    def is_success(self) -> bool:
        return self.reading is not None

    @property
    def takes_prompt(self) -> bool:
        return self.prompted.is_right

    @property
    def counts_steps(self) -> bool:
        reading = self.reading
        return reading is not None and reading.positions is not None

    @property
    def rank(self) -> tuple[object, ...]:
        """Larger is better: more of the request arrives, by options that it speaks of, with fewer words."""
        extra = not self.takes_prompt and self.shape.passes("prompt")
        n_said = sum(map(self.shape.passes, ROLES)) if self.shape.is_said else 0
        n_words = len(self.shape.words) + 2 * extra
        return (self.takes_prompt, self.counts_steps, n_said, -n_words, -self.trial.number)

    @property
    def output(self) -> str:
        return self.seen.stdout.decode("utf-8", "replace") + self.seen.stderr_tail

    @property
    def bare(self) -> bytes:
        """The output without numbers, and without the paths that were in the command."""
        text = self.seen.stdout
        for word in sorted((word for word in self.seen.command if "/" in word), key=len, reverse=True):
            text = text.replace(os.fsencode(word.partition("=")[2] or word), b"~")
            text = text.replace(os.fsencode(word), b"~")
        return re.sub(rb"\d+(?:[.,:]\d+)*", b"#", text)


@functools.lru_cache(maxsize=4)
def _oracle(checkpoint: Path, tokenizer: Path, sha256: str) -> Oracle:
    """The reference on a model; sha256 tells apart what stood at one path."""
    return Oracle(load(checkpoint, tokenizer))


@dataclass(slots=True)
class Trials:
    """Everything that has been tried on one program.

    Attributes:
        command: the user's words.
        files: the models to try it on.
        limits: of each trial.
        progress: told of each trial.
        path: where the manifest will stand.
        directory: for the models in other forms.
        done: every trial, in order.
        tried: the greedy ones on a plain model, by the call.
        usage_kinds: outputs that explain how to call it.
        n_hung: trials that were ended by the limit of time.
        slowest_s: the longest that ended by itself.
        forms: models that have been written in another form.
    """

    command: list[str]
    files: list[ModelFiles]
    limits: Limits
    progress: Progress
    path: Path
    directory: Path
    done: list[Trial] = field(default_factory=list)
    tried: dict[tuple[object, ...], Tried] = field(default_factory=dict)
    usage_kinds: set[str] = field(default_factory=set)
    n_hung: int = 0
    slowest_s: float = 0.0
    forms: dict[tuple[Form, str], ModelFiles] = field(default_factory=dict)

    def oracle(self, form: Form) -> Oracle:
        """Return what the reference says of the model behind a form; exact expansions share it."""
        base = self._base(form)
        return _oracle(base.checkpoint, base.tokenizer, base.sha256)

    def _base(self, form: Form) -> ModelFiles:
        wanted = "llama2c-v2" if form.format == "llama2c-v2" else "llama2c-v0"
        found = next((files for files in self.files if files.format == wanted), None)
        if found is None:
            raise InputError(f"no model of {wanted} was given to adopt with")
        return found

    def in_form(self, form: Form, base: ModelFiles | None = None) -> ModelFiles:
        """Return the model's files in a form; InputError if it has none."""
        base = base or self._base(form)
        if (form, base.sha256) not in self.forms:
            self.forms[form, base.sha256] = prepare(
                base,
                format=form.format,
                mha=form.mha,
                untied=form.untied,
                vocab_size=form.vocab_size,
                hidden_multiple=form.hidden_multiple,
                tokenizer_layout=form.layout,
                out_dir=self.directory / "models",
            )
        return self.forms[form, base.sha256]

    def changed(self, form: Form, name: str, change: Callable[[Model], checkpoints.Checkpoint]) -> ModelFiles:
        """Return a model with other weights, in the form that the program reads."""
        base = self._base(form)
        path = self.directory / f"{name}-{base.name}.bin"
        model = self.oracle(form).model
        checkpoints.write(change(model), path, version=2 if form.format == "llama2c-v2" else 0)
        changed = replace(base, name=name, checkpoint=path, sha256=checkpoints.sha256_of(path), is_embedded=False)
        return self.in_form(form, changed)

    def manifest(self, shape: Shape) -> Manifest:
        """Return the manifest that makes these calls: the very way in which the program will be run later."""
        return Manifest(
            path=self.path.absolute(),
            name="candidate",
            run=(*template(self.command, self.path), *shape.words),
            prompt_args=shape.prompt_args or ("-i", "{prompt}"),
            stdin=shape.stdin,
            files=dict(shape.files),
            model_dir=dict(shape.model_dir),
            cwd=shape.cwd,
        )

    def call(
        self,
        shape: Shape,
        form: Form = PLAIN,
        *,
        prompt: bytes | None = None,
        steps: int | None = None,
        files: ModelFiles | None = None,
        temperature: float = 0.0,
        topp: float = 0.9,
        seed: int = 1,
        time_s: float | None = None,
    ) -> Tried:
        """Run the program once and read its output; the same call is never made twice unless it is sampled."""
        oracle = self.oracle(form)
        task = oracle.task
        prompt = task.prompt if prompt is None else prompt
        steps = task.steps if steps is None else steps
        is_default = files is None and temperature == 0
        files = files or self.in_form(form)
        key = (
            shape.args,
            shape.prompt_args,
            shape.stdin,
            shape.files,
            shape.model_dir,
            shape.cwd,
            form,
            prompt,
            steps,
        )
        if is_default and key in self.tried:
            return self.tried[key]
        request = Request(files.checkpoint, files.tokenizer, prompt, steps, temperature, topp, seed)
        seen = ProcessImplementation(self.manifest(shape)).run(request, self._limited(time_s))
        if isinstance(seen.failure, TimedOut):
            self.n_hung += 1
        else:
            self.slowest_s = max(self.slowest_s, seen.wall_s)
        prompted = read(seen.stdout, oracle.expect(prompt, steps))
        unprompted = read(seen.stdout, oracle.expect(b"", steps)) if prompt else prompted
        tried = Tried(_nothing(), shape, form, seen, prompted, unprompted)
        tried.promise = self._promise(tried, prompt)
        tried.trial = Trial(
            len(self.done) + 1,
            shape.name,
            form.name,
            _shortened(shlex.join(seen.command), files, self.path.parent),
            _shortened(_outcome(tried, self.usage_kinds), files, self.path.parent)[:100],
            seen.stdout,
            seen.stderr_tail,
        )
        self.done.append(tried.trial)
        self.progress(f"trial {tried.trial.number}: {shape.name}, {form.name}: {tried.trial.outcome}")
        if is_default:
            self.tried[key] = tried
        return tried

    def _limited(self, time_s: float | None) -> Limits:
        """Limits of a trial: less time if `time_s` says so or others hung, unless the machine is merely slow."""
        most = self.limits.time_s
        wanted = min(time_s or most, _HANGING_S if self.n_hung >= _HANGS else most)
        return replace(self.limits, time_s=min(most, max(wanted, _SLOWER * self.slowest_s)))

    def _promise(self, tried: Tried, prompt: bytes) -> int:
        """Say how near a failure is to an answer: an unknown option is far, a bad header is near."""
        text = tried.output
        if kind_of(text) in self.usage_kinds:
            return -6
        ended_well = tried.seen.failure is None
        promise = 0
        if re.search(
            r"(?:unknown|unrecogni[sz]ed|invalid|unexpected|bad) (?:option|flag|argument)", text, re.IGNORECASE
        ):
            promise -= 6
        if looks_like_usage(text):
            promise -= 5
        if re.search(r"no such file|could ?n[o']t open|cannot open|can't open|not found|ENOENT", text, re.IGNORECASE):
            promise -= 3
        if ended_well and len(tried.seen.stdout.strip()) >= _TEXT_BYTES:
            promise += 4
            promise += 4 * (bool(prompt) and prompt in tried.seen.stdout)
        if not ended_well and re.search(
            r"magic|version|header|format|shape|buffer|vocab|tokeni[sz]er|length|index|bounds|overflow|memory|size|EOF",
            text,
            re.IGNORECASE,
        ):
            promise += 2
        if (tried.seen.exit_code or 0) < 0 or isinstance(tried.seen.failure, TimedOut):
            promise += 2
        return promise

    def dependence(self, tried: Tried) -> tuple[int, list[str]]:
        """Vary one input at a time; return how much of it shows (0 to 6), and in words."""
        shape, form = tried.shape, tried.form
        base = tried.bare
        words: list[str] = []
        other_model = self.changed(form, "other", _with_other_gains)
        is_steady = self.is_steady(tried)
        by_model = self.call(shape, form, files=other_model)
        if not is_steady:
            words.append("its output changes from run to run")
        elif by_model.bare == base or by_model.seen.failure is not None:
            return 0, ["another model gives the same output"]
        else:
            words.append("another model gives another text")
        score = 3 if is_steady else 1
        by_prompt = self.call(shape, form, prompt=_OTHER_PROMPT)
        if _OTHER_PROMPT in by_prompt.seen.stdout and _OTHER_PROMPT not in tried.seen.stdout:
            score += 2
            words.append("another prompt is echoed in its place")
        elif is_steady and by_prompt.bare != base:
            score += 1
            words.append("another prompt gives another text")
        task = self.oracle(form).task
        longer = self.call(shape, form, steps=2 * task.steps)
        if len(longer.seen.stdout) > len(tried.seen.stdout) * 5 // 4:
            score += 1
            words.append("twice the steps give a longer text")
        return score, words

    @property
    def n_ended(self) -> int:
        """Trials that ended by themselves."""
        return len(self.done) - self.n_hung

    @property
    def is_mute(self) -> bool:
        """Whether it always hangs and never prints."""
        return self.n_hung == len(self.done) >= _MUTE and not any(trial.stdout for trial in self.done)

    def nearest(self) -> Trial:
        """Return the trial that came nearest to an answer."""
        candidates = self.tried.values()
        return max(candidates, key=lambda one: (one.promise, one.form is PLAIN, -one.trial.number)).trial

    def is_steady(self, tried: Tried) -> bool:
        """Whether the same call gives the same output again."""
        return self.call(tried.shape, tried.form, files=self.in_form(tried.form)).bare == tried.bare


def _nothing() -> Trial:
    return Trial(0, "", "", "", "", b"", "")


def kind_of(text: str) -> str:
    """Reduce an output to what kind it is: numbers and paths do not count."""
    return re.sub(r"\d+(?:\.\d+)?", "#", re.sub(r"\S*/\S+|'[^'\n]*'|\"[^\"\n]*\"", "~", text))[:400]


def numbers_masked(stdout: bytes) -> bytes:
    return re.sub(rb"\d+(?:[.,:]\d+)*", b"#", stdout)


def quoted(text: bytes, limit: int = 60) -> str:
    shown = text.decode("utf-8", "replace")
    return repr(shown if len(shown) <= limit else shown[:limit] + "...")


def _shortened(text: str, files: ModelFiles, source: Path) -> str:
    """Give the model's files short names, and the program's too."""
    for path, name in ((files.checkpoint, "MODEL"), (files.tokenizer, "TOKENIZER"), (f"{source}/", "./")):
        text = text.replace(str(path), name)
    text = re.sub(r"[^\s'\"]*/harness-run-[^/\s'\"]+/model\b", "MODEL_DIR", text)
    return re.sub(r"[^\s'\"]*/harness-(?:run|adopt)-[^/\s'\"]+/", "", text)


def _outcome(tried: Tried, usage_kinds: set[str]) -> str:
    reading, seen = tried.reading, tried.seen
    if reading is not None:
        return (
            f"{reading.n_match} tokens of the reference's text{'' if tried.takes_prompt else ', without the prompt'}"
        )
    words = [seen.failure.what] if seen.failure else []
    if kind_of(tried.output) in usage_kinds or looks_like_usage(tried.output):
        words.append("explained its usage")
    elif seen.stdout.strip():
        words.append(f"printed {quoted(seen.stdout.strip(), 200)}")
    elif last := [line for line in seen.stderr_tail.splitlines() if line.strip()][-1:]:
        words.append(last[0].strip()[:80])
    return ": ".join(words) or "printed nothing"


def template(command: Sequence[str], path: Path) -> list[str]:
    """Write the user's words as a manifest's: files beside it by {src}, others by their whole path."""
    words = []
    for index, word in enumerate(command):
        parts = word.split(os.pathsep)
        is_program = index == 0 and "/" not in word and toolchain.find(word) is not None and not os.path.isfile(word)
        if is_program or word.startswith("-") or not all(part and os.path.exists(part) for part in parts):
            words.append(_escaped(word))
        else:
            words.append(os.pathsep.join(_located(Path(part).absolute(), path.absolute().parent) for part in parts))
    return words


def _located(target: Path, source: Path) -> str:
    if target == source:
        return "{src}"
    if target.is_relative_to(source):
        return "{src}/" + _escaped(str(target.relative_to(source)))
    return _escaped(str(target))


def _escaped(word: str) -> str:
    return word.replace("{", "{{").replace("}", "}}")


def _with_other_gains(model: Model) -> checkpoints.Checkpoint:
    """The same model with its final gains turned round, so that it says something else."""
    weights = model.checkpoint
    tensors = dict(weights.tensors)
    gains = tensors["final_norm"]
    tensors["final_norm"] = -gains[::-1]  # type: ignore[index]
    return replace(weights, tensors=tensors)
