"""Adopt a program: find how it wants to be called, by calling it, and write its manifest.

    found = adopt(["./their-port/run"])
    print(found.verdict, found.manifest_toml)

Each trial runs the program on an embedded model whose greedy continuation is known. The shapes of `adopt_shapes`
are tried, common ones first, and those that the program's own usage text suggests. A trial is a success if the text
is the reference's. Where none is, forms of the model are tried (other containers, expansions, tokenizer layouts);
and where still none is, the shape counts whose output depends on the model, the prompt and the steps as it should:
a port with a bug must be adoptable, for it is the one that needs judging.

Then everything that the program does not need is taken away again, its other options and habits are measured, and
the manifest is written, each choice with what showed it.
"""

from __future__ import annotations

import enum
import os
import re
import shlex
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness import checkpoint as checkpoints
from harness.adapters import toolchain
from harness.adapters.extract import AGAIN, reported_tps
from harness.adapters.implementation import ProcessImplementation
from harness.adapters.manifest import FILE_NAME, Manifest
from harness.adapters.process import Limits
from harness.conformance import toml_text
from harness.conformance.adopt_options import (
    ROLES,
    Usage,
    file_names,
    looks_like_usage,
    mine,
    mine_program,
)
from harness.conformance.adopt_reading import Oracle, Reading, read
from harness.conformance.adopt_shapes import (
    FLAGS,
    FORMS,
    NOTHING,
    PLAIN,
    Form,
    Shape,
    common_shapes,
    mined_shapes,
    with_files,
)
from harness.errors import InputError, StartFailed, TimedOut
from harness.models import Model, ModelFiles, load, locate, prepare
from harness.results import Observation, Request

__all__ = ["Adoption", "Evidence", "Trial", "Verdict", "adopt", "default_path"]

TRIAL_LIMITS = Limits(time_s=10.0, output_bytes=1 << 20, memory_bytes=4 << 30)
BUDGET_S = 60.0  # of searching; what was found by then is taken
_PROBE_S = 5.0
_HANGS = 2  # programs that hung this often get less time
_HANGING_S = 2.0
_TEXT_BYTES = 30  # less is hardly a text
_MAX_FORM_SHAPES = 4
_OTHER_PROMPT = b"Tom saw"
_SEED = 42

Progress = Callable[[str], None]


class Verdict(enum.StrEnum):
    """How an adoption ended."""

    REPRODUCES = "its text is the reference's"
    DIFFERS = "runs, but its text is not the reference's"
    NOT_FOUND = "no way of calling it was found"
    NOT_STARTED = "cannot be started"


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


@dataclass(frozen=True, slots=True)
class Evidence:
    """Why a key of the manifest has its value, or what else was seen."""

    key: str
    text: str


@dataclass(frozen=True, slots=True)
class Adoption:
    """What was found.

    Attributes:
        verdict: how it ended.
        manifest_toml: the manifest; empty if there is none.
        evidence: the reasons for what it says, in the order of the file.
        trials: every run, in order.
        promising: where nothing was found, the trial that came nearest.
    """

    verdict: Verdict
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
    target = Path(path) if path is not None else default_path(command)
    with tempfile.TemporaryDirectory(prefix="harness-adopt-") as directory:
        search = _Search(command, files, limits, progress or (lambda line: None), target, Path(directory))
        return search.run()


def default_path(command: Sequence[str]) -> Path:
    """Return where the manifest of a command belongs: beside the program or script, else in the working directory."""
    files = [word for word in command if Path(word).is_file()]
    if len(command) == 1 or not any(word in files for word in command[1:]):
        own = [word for word in files if "/" in word]
    else:
        own = [word for word in files if word in command[1:]]
    for word in own:
        directory = Path(word).absolute().parent
        if os.access(directory, os.W_OK):
            return directory / FILE_NAME
    return Path.cwd() / FILE_NAME


_SCRIPTS = {
    ".py": "Python", ".js": "JavaScript", ".mjs": "JavaScript", ".cjs": "JavaScript", ".ts": "TypeScript",
    ".rb": "Ruby", ".pl": "Perl", ".lua": "Lua", ".php": "PHP", ".jl": "Julia", ".sh": "shell", ".jar": "Java",
    ".go": "Go", ".R": "R", ".exs": "Elixir",
}  # fmt: skip


def _check(command: Sequence[str]) -> None:
    if not command or not command[0]:
        raise InputError("no program was given", hint='harness adopt ./run, or: harness adopt "python x.py"')
    for word in command[1:2]:
        if Path(word).suffix in _SCRIPTS and not word.startswith("-") and not Path(word).exists():
            raise InputError("there is no such script", path=word)


# ---- one trial


@dataclass(slots=True)
class _Tried:
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
        """Larger is better: more of the request arrives, with fewer words."""
        extra = not self.takes_prompt and self.shape.passes("prompt")
        return (self.takes_prompt, self.counts_steps, -len(self.shape.words) - 2 * extra, -self.trial.number)

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


@dataclass(slots=True)
class _Search:
    command: list[str]
    files: list[ModelFiles]
    limits: Limits
    progress: Progress
    path: Path
    directory: Path
    trials: list[Trial] = field(default_factory=list)
    tried: dict[tuple[object, ...], _Tried] = field(default_factory=dict)
    usage_marks: set[str] = field(default_factory=set)
    found_names: list[str] = field(default_factory=list)
    evidence: list[Evidence] = field(default_factory=list)
    n_hung: int = 0
    deadline: float = 0.0
    oracles: dict[str, Oracle] = field(default_factory=dict)

    # -- the files

    def oracle(self, form: Form) -> Oracle:
        base = self._base(form)
        if base.name not in self.oracles:
            self.oracles[base.name] = Oracle(load(base.checkpoint, base.tokenizer))
        return self.oracles[base.name]

    def _base(self, form: Form) -> ModelFiles:
        wanted = "llama2c-v2" if form.format == "llama2c-v2" else "llama2c-v0"
        found = next((files for files in self.files if files.format == wanted), None)
        if found is None:
            raise InputError(f"no model of {wanted} was given to adopt with")
        return found

    def _files(self, form: Form, base: ModelFiles | None = None) -> ModelFiles:
        return prepare(
            base or self._base(form),
            format=form.format,
            mha=form.mha,
            untied=form.untied,
            vocab_size=form.vocab_size,
            hidden_multiple=form.hidden_multiple,
            tokenizer_layout=form.layout,
            out_dir=self.directory / "models",
        )

    def _changed(self, form: Form, name: str, change: Callable[[Model], checkpoints.Checkpoint]) -> ModelFiles:
        """Return a model with other weights, in the form that the program reads."""
        base = self._base(form)
        path = self.directory / f"{name}-{base.name}.bin"
        model = self.oracle(form).model
        checkpoints.write(change(model), path, version=2 if form.format == "llama2c-v2" else 0)
        changed = replace(base, name=name, checkpoint=path, sha256=checkpoints.sha256_of(path), is_embedded=False)
        return self._files(form, changed)

    # -- trials

    def manifest(self, shape: Shape) -> Manifest:
        return Manifest(
            path=self.path.absolute(),
            name="candidate",
            run=(*_template(self.command, self.path), *shape.words),
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
    ) -> _Tried:
        """Run the program once and read its output; the same call is never made twice unless it is sampled."""
        oracle = self.oracle(form)
        task = oracle.task
        prompt = task.prompt if prompt is None else prompt
        steps = task.steps if steps is None else steps
        is_default = files is None and temperature == 0
        files = files or self._files(form)
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
        time_s = min(time_s or self.limits.time_s, _HANGING_S if self.n_hung >= _HANGS else self.limits.time_s)
        run = ProcessImplementation(self.manifest(shape))
        seen = run.run(request, replace(self.limits, time_s=time_s))
        self.n_hung += isinstance(seen.failure, TimedOut)
        prompted = read(seen.stdout, oracle.expect(prompt, steps))
        unprompted = read(seen.stdout, oracle.expect(b"", steps)) if prompt else prompted
        tried = _Tried(_nothing(), shape, form, seen, prompted, unprompted)
        tried.promise = self._promise(tried, prompt)
        tried.trial = Trial(
            len(self.trials) + 1,
            shape.name,
            form.name,
            _shown(seen.command, files, self.path.absolute().parent),
            _outcome(tried, self.usage_marks),
            seen.stdout,
            seen.stderr_tail,
        )
        self.trials.append(tried.trial)
        self.progress(f"trial {tried.trial.number}: {shape.name}, {form.name}: {tried.trial.outcome}")
        if is_default:
            self.tried[key] = tried
        return tried

    def _promise(self, tried: _Tried, prompt: bytes) -> int:
        """Say how near a failure is to an answer: an unknown option is far, a bad header is near."""
        text = tried.output
        if _mark(text) in self.usage_marks:
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

    # -- the search

    def run(self) -> Adoption:
        self.deadline = time.monotonic() + BUDGET_S
        best: _Tried | None = None
        differing: _Tried | None = None
        examined: set[str] = set()
        first = self.call(FLAGS)
        if isinstance(first.seen.failure, StartFailed):
            return self._ended(Verdict.NOT_STARTED)
        for tried in self._shapes(first):
            if tried is None:
                # Before unlikely shapes: a shape that is right may fail over the file that it was given.
                best = best or self._by_forms([one for one in self._nearest() if one.promise >= 2][:2])
                if best is not None and best.form is not PLAIN:
                    break
            elif tried.is_success:
                best = max(best, tried, key=lambda one: one.rank) if best else tried
                if tried.takes_prompt and tried.counts_steps:
                    break
            elif best is None and self._is_text(tried) and _mark(tried.output) not in examined and len(examined) < 3:
                # A text, and the wrong one: another form of the model, or a bug.
                examined.add(_mark(tried.output))
                if not self._is_steady(tried):
                    continue  # it does not know of the temperature
                best = self._by_forms([tried])
                if best is not None:
                    break
                if self._dependence(tried)[0] >= 5:
                    differing = tried
                    break
            if time.monotonic() > self.deadline:
                break
        if best is None and differing is None:
            best = self._by_forms(self._nearest())
        if best is None and differing is None:
            differing = self._differing()
        if best is not None:
            return self._adopted(self._minimal(best), Verdict.REPRODUCES)
        if differing is not None:
            return self._adopted(self._minimal(differing), Verdict.DIFFERS)
        return self._ended(Verdict.NOT_FOUND)

    def _shapes(self, first: _Tried) -> Iterator[_Tried | None]:
        """Yield a trial of every shape on the plain form, common ones first; None before the less likely ones."""
        yield first
        usage = self._probe(first)
        yield self.call(with_files(NOTHING, self.found_names))
        mined = [*mined_shapes(usage), *(() if usage else self._from_program())]
        for shape in (*mined, None, *common_shapes()):
            if shape is None:
                yield None
                continue
            tried = self.call(with_files(shape, self.found_names))
            yield tried
            # A message may name the file that was looked for.
            missing = [name for name in file_names(tried.output) if name not in dict(tried.shape.files)]
            if missing and not tried.is_success:
                self.found_names += [name for name in missing if name not in self.found_names][:8]
                again = with_files(shape, self.found_names)
                if again.files != tried.shape.files:
                    yield self.call(again)
        if not usage or not any(tried.promise >= 0 for tried in self.tried.values()):
            for shape in (replace(FLAGS, cwd="{src}", name="llama2.c flags, run where it lies"),):
                yield self.call(shape)

    def _probe(self, first: _Tried) -> Usage:
        """Ask the program how it is called: its words without arguments, to --help and to -h."""
        best = mine(first.output, program=self.command) if looks_like_usage(first.output) else Usage()
        if looks_like_usage(first.output):
            self.usage_marks.add(_mark(first.output))
        for flag in ("", "--help", "-h"):
            if len(best.options) >= 3:
                break
            shape = Shape(f"asking with {flag or 'no arguments'}", ((flag,),) if flag else ())
            tried = self.call(with_files(shape) if not flag else shape, time_s=_PROBE_S)
            self.found_names += [name for name in file_names(tried.output) if name not in self.found_names][:8]
            if looks_like_usage(tried.output):
                self.usage_marks.add(_mark(tried.output))
                found = mine(tried.output, program=self.command)
                best = max(best, found, key=lambda one: len(one.options) + len(one.positionals))
        return best

    def _from_program(self) -> list[Shape]:
        """Build shapes from the texts in the program itself, and note the file names in it."""
        usage = Usage()
        for word in self.command:
            path = Path(toolchain.find(word) or word) if word is self.command[0] else Path(word)
            is_own = len(self.command) == 1 or word is not self.command[0]
            if not is_own or not path.is_file() or path.stat().st_size > 64 << 20:
                continue
            content = path.read_bytes()
            usage = usage or mine_program(content)
            self.found_names += file_names(content.decode("latin-1"))[:16]
        return mined_shapes(usage)

    def _is_text(self, tried: _Tried) -> bool:
        return tried.seen.failure is None and tried.promise >= 8

    def _nearest(self) -> list[_Tried]:
        """Return the failures that came nearest, one of each kind."""
        kinds: dict[str, _Tried] = {}
        for tried in sorted(self.tried.values(), key=lambda one: (-one.promise, one.trial.number)):
            if tried.form is PLAIN and tried.trial.shape[:6] != "asking":
                kinds.setdefault(_mark(tried.output), tried)
        return list(kinds.values())[:_MAX_FORM_SHAPES]

    def _by_forms(self, shapes: Iterable[_Tried]) -> _Tried | None:
        """Give these shapes the model in other forms; return the first whose text is the reference's."""
        found: _Tried | None = None
        for form in FORMS:
            for tried in shapes:
                if time.monotonic() > self.deadline:
                    return found
                try:
                    again = self.call(tried.shape, form)
                except InputError:  # this model has no such form
                    break
                if again.takes_prompt:
                    return again
                if again.is_success and (found is None or again.rank > found.rank):
                    found = again
        return found

    # -- where nothing reproduces the reference

    def _differing(self) -> _Tried | None:
        """Return the trial whose output depends on what it was given as it should."""
        best: tuple[int, _Tried] | None = None
        candidates = [one for one in self.tried.values() if len(one.seen.stdout.strip()) >= _TEXT_BYTES]
        kinds: Counter[str] = Counter()
        for tried in sorted(candidates, key=lambda one: (-one.promise, one.trial.number)):
            kinds[_mark(tried.output)] += 1
            if kinds[_mark(tried.output)] > 1 or tried.promise < 0 or len(kinds) > 6:
                continue
            score, _ = self._dependence(tried)
            if score >= 4 and (best is None or score > best[0]):
                best = (score, tried)
        return best[1] if best else None

    def _dependence(self, tried: _Tried) -> tuple[int, list[str]]:
        """Vary one input at a time; return how much of it shows (0 to 6), and in words."""
        shape, form = tried.shape, tried.form
        base = tried.bare
        words: list[str] = []
        other_model = self._changed(form, "other", _with_other_gains)
        is_steady = self._is_steady(tried)
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

    def _is_steady(self, tried: _Tried) -> bool:
        """Whether the same call gives the same output again."""
        return self.call(tried.shape, tried.form, files=self._files(tried.form)).bare == tried.bare

    # -- taking away what is not needed

    def _minimal(self, tried: _Tried) -> _Tried:
        """Return the same success with fewer files, words and bytes on stdin."""
        for role, kept in (("prompt", "stdin"), ("model", "files"), ("tokenizer", "files")):
            if tried.shape.passes(role) and (kept == "files" or tried.shape.stdin):
                # Either the argument or the other way carries it; the argument is the cleaner one.
                lean = replace(tried.shape, stdin="") if kept == "stdin" else self._unfiled(tried.shape, role)
                again = self._same(tried, lean)
                if again is None:
                    again = self._same(tried, tried.shape.without(role))
                tried = again or tried
        if tried.shape.stdin and not tried.shape.passes("prompt"):
            tried = self._same(tried, replace(tried.shape, stdin="")) or tried
        tried = self._fewer_files(tried)
        if tried.is_success and not tried.takes_prompt and tried.shape.passes("prompt"):
            tried = self._same(tried, tried.shape.without("prompt")) or tried
        for role in ("steps", "temperature", "topp", "seed"):
            if not tried.counts_steps and tried.is_success and tried.shape.passes(role) and role == "steps":
                tried = self._same(tried, tried.shape.without(role)) or tried
        return tried

    def _unfiled(self, shape: Shape, role: str) -> Shape:
        return replace(shape, files=tuple(pair for pair in shape.files if pair[1] != f"{{{role}}}"))

    def _same(self, tried: _Tried, shape: Shape) -> _Tried | None:
        """Try another shape; return its trial if it does all that the first one did."""
        if shape == tried.shape:
            return tried
        again = self.call(shape, tried.form)
        if tried.is_success:
            is_same = again.is_success and again.rank[:2] >= tried.rank[:2]
        else:
            is_same = again.bare == tried.bare
        return again if is_same else None

    def _fewer_files(self, tried: _Tried) -> _Tried:
        if tried.shape.files:
            tried = self._same(tried, replace(tried.shape, files=())) or tried
        for attribute in ("files", "model_dir"):
            for role in ("{model}", "{tokenizer}"):
                tried = self._fewest(tried, attribute, role)
        return tried

    def _fewest(self, tried: _Tried, attribute: str, role: str) -> _Tried:
        """Halve the names that are linked to one thing until one is left, or none."""

        def keeping(names: Sequence[str]) -> Shape:
            pairs: tuple[tuple[str, str], ...] = getattr(tried.shape, attribute)
            kept = tuple(pair for pair in pairs if pair[1] != role or pair[0] in names)
            if attribute == "files":
                return replace(tried.shape, files=kept)
            return replace(tried.shape, model_dir=kept)

        names = [name for name, what in getattr(tried.shape, attribute) if what == role]
        if not names:
            return tried
        without = self._same(tried, keeping(()))
        if without is not None:
            return without
        named = [name for name in names if name in file_names(self.call(keeping(()), tried.form).output)]
        for guess in (named[-1:], [name for name in names if name in ("tokenizer.bin", "model.bin")]):
            if len(guess) == 1 and len(names) > 1 and (again := self._same(tried, keeping(guess))):
                return again
        while len(names) > 1:
            half = len(names) // 2
            for part in (names[:half], names[half:]):
                if again := self._same(tried, keeping(part)):
                    tried, names = again, part
                    break
            else:
                break  # it needs more than one
        return tried

    # -- what else it does

    def _adopted(self, tried: _Tried, verdict: Verdict) -> Adoption:
        habits = _Habits(self, tried)
        text = habits.manifest(verdict)
        Manifest.model_validate({**tomllib.loads(text), "path": self.path.absolute()})
        return Adoption(verdict, text, habits.evidence, self.trials)

    def _ended(self, verdict: Verdict) -> Adoption:
        nearest = max(self.tried.values(), key=lambda one: (one.promise, len(one.seen.stdout), -one.trial.number))
        return Adoption(verdict, "", [], self.trials, nearest.trial)


# ---- habits, and the manifest


@dataclass(slots=True)
class _Habits:
    """Measures what the found way of calling leaves open, and writes it down."""

    search: _Search
    tried: _Tried
    evidence: list[Evidence] = field(default_factory=list)

    def note(self, key: str, text: str) -> None:
        self.evidence.append(Evidence(key, text))

    def manifest(self, verdict: Verdict) -> str:
        tried, form = self.tried, self.tried.form
        shape = tried.shape
        name = _name(self.search.command, self.search.path)
        lines = [
            "# How to call this program, found by `harness adopt` by running it; comments say what showed each choice.",
            f"name = {toml_text.string(name)}",
        ]
        if language := _language(self.search.command):
            lines.append(f"language = {toml_text.string(language)}")
        self._shape_evidence(verdict)
        self._form_evidence()
        is_llama2c = self._sampling() if verdict is Verdict.REPRODUCES else False
        stops = self._stopping() if verdict is Verdict.REPRODUCES else False
        self._empty_prompt(verdict)
        prints = verdict is Verdict.REPRODUCES and self._prints_like_llama2c()
        words = [*_template(self.search.command, self.search.path), *shape.words]
        self._put(lines, "precision", toml_text.string("q8" if form.format == "llama2c-v2" else "f32"))
        if form.format != "llama2c-v0":
            self._put(lines, "formats", toml_text.strings([form.format]))
        self._put(lines, "run", toml_text.strings(words))
        if "{prompt_args}" in shape.words:
            self._put(lines, "prompt_args", toml_text.strings(shape.prompt_args))
        if shape.stdin:
            self._put(lines, "stdin", toml_text.string(shape.stdin))
        if shape.cwd != "{work}":
            self._put(lines, "cwd", toml_text.string(shape.cwd))
        for key, pairs in (("files", shape.files), ("model_dir", shape.model_dir)):
            if pairs:
                self._put(lines, key, _inline(pairs))
        reading = tried.reading or tried.prompted
        if tried.takes_prompt or not tried.is_success:
            self.note(
                "echo", f"the prompt is {'printed' if reading.echoes else 'not printed'} before the continuation"
            )
            self._put(lines, "echo", toml_text.string("prompt" if reading.echoes else "none"))
        self._steps_and_extras(reading)
        self._speed(lines)
        if is_llama2c and stops and prints:
            self.note("conventions", "text, stopping and sampled tokens were llama2.c's, byte for byte")
            self._put(lines, "conventions", toml_text.string("llama2.c"))
        needs = _needs(form)
        if needs:
            self._put(lines, "needs", _inline(needs))
        lines += [f"# {line}" for one in self.evidence if one.key == "" for line in _wrapped(one.text)]
        return "\n".join(lines) + "\n"

    def _put(self, lines: list[str], key: str, value: str) -> None:
        for one in self.evidence:
            if one.key == key:
                lines += [f"# {line}" for line in _wrapped(one.text)]
        lines.append(f"{key} = {value}")

    def _shape_evidence(self, verdict: Verdict) -> None:
        tried = self.tried
        trial, reading = tried.trial, tried.reading or tried.prompted
        task = self.search.oracle(tried.form).task
        expected = self.search.oracle(tried.form).expect(task.prompt if tried.prompted.is_right else b"", task.steps)
        how = f"trial {trial.number} ({trial.shape}), `{trial.command}`,"
        if verdict is Verdict.REPRODUCES:
            total = task.steps - (expected.n_prompt - 1) if reading.positions == task.steps else reading.n_match
            text = f"{how} printed {_quoted(reading.text)}: {reading.n_match} of {max(total, reading.n_match)}"
            self.note("run", f"{text} generated tokens are the reference's")
            if not tried.takes_prompt:
                self.note("run", "no way of giving it a prompt was found: this is its text without one")
        else:
            n = tried.prompted.n_match
            self.note("run", f"{how} printed {_quoted(tried.seen.stdout)}")
            _, words = self.search._dependence(tried)
            self.note("run", "; ".join(words) or "nothing else was seen")
            self.note(
                "",
                f"It runs, but its text differs from the reference from generated token {n} on: run harness check.",
            )
        self.note("precision", "not measured: declare f16, bf16 or q8 if it computes in less than float32")
        if tried.form.format == "llama2c-v2":
            self.evidence[-1] = Evidence("precision", "it was given int8 weights")
        if tried.seen.failure is not None:
            self.note("", f"It {tried.seen.failure.what}, although it printed its text.")

    def _form_evidence(self) -> None:
        form = self.tried.form
        if form is PLAIN:
            return
        plain = self.search.call(self.tried.shape, PLAIN)
        seen = f"given {form.name} it was right; given the plain model of version 0: {plain.trial.outcome}"
        self.note("formats" if form.format != "llama2c-v0" else "needs", seen)

    def _sampling(self) -> bool:
        """Run it sampled with a seed; return whether its tokens are those of llama2.c's generator."""
        tried, search = self.tried, self.search
        oracle = search.oracle(tried.form)
        task = oracle.task
        absent = [role for role in ("steps", "temperature", "topp", "seed") if not tried.shape.passes(role)]
        if absent:
            self.note("", f"No option was found for: {', '.join(absent)}.")
        if not tried.shape.passes("temperature"):
            return False
        options = {"temperature": 1.0, "topp": 0.9}
        prompt = task.prompt if tried.takes_prompt else b""

        def sampled(seed: int) -> bytes:
            again = search.call(
                tried.shape, tried.form, prompt=prompt, seed=seed, files=search._files(tried.form), **options
            )
            return again.bare

        first = sampled(_SEED)
        if first == tried.bare:
            self.note(
                "", "Sampled at temperature 1 it printed the greedy text: the temperature seems to have no effect."
            )
            return False
        if not tried.shape.passes("seed"):
            self.note("", "Without a seed its sampled text cannot be told in advance.")
            return False
        expected = oracle.printed(oracle.ids(prompt, task.steps, seed=_SEED, **options))
        common = len(os.path.commonprefix([_masked(expected).strip(), first.strip()]))
        if common >= min(len(expected.strip()), 60) or _masked(expected).strip() in first:
            self.note(
                "", f"Sampled at temperature 1, top-p 0.9, seed {_SEED}, its text was that of llama2.c's generator."
            )
            return True
        if sampled(_SEED) != first:
            self.note("", "Sampled twice with one seed it printed two texts: the seed seems to have no effect.")
        else:
            self.note(
                "", "A seed repeats its sampled text, but the generator is not llama2.c's: no sampled case applies."
            )
        return False

    def _stopping(self) -> bool:
        """See whether a BOS ends its text, and an EOS; return whether both are as in llama2.c."""
        tried, search = self.tried, self.search
        if not tried.shape.passes("steps"):
            return False
        oracle = search.oracle(tried.form)
        tokenizer = oracle.model.tokenizer
        task = oracle.task
        prompt = task.prompt if tried.takes_prompt else b""
        ids = oracle.ids(prompt, task.steps)
        target = ids[min(len(tokenizer.encode(prompt)) + 9, len(ids) - 1)]
        if oracle.is_int8 or target in tokenizer.encode(prompt):
            return False
        changed = search._changed(tried.form, "eos", lambda model: _swapped(model, target, tokenizer.eos_id))
        seen = search.call(tried.shape, tried.form, prompt=prompt, files=changed).seen.stdout
        at = ids.index(target, 1)
        before = tokenizer.print_text(ids[:at])
        as_llama2c = tokenizer.print_text([tokenizer.eos_id if id_ == target else id_ for id_ in ids])
        after = tokenizer.print_text(ids[at:])[-12:]
        goes_on = as_llama2c in seen or (after in seen and before[-12:] in seen)
        self.note("", f"EOS {'does not end' if goes_on else 'ends'} its text.")
        long = oracle.ids(prompt, oracle.model.checkpoint.config.seq_len)
        if long[-1] != tokenizer.bos_id:
            return False
        steps = min(len(long) + 20, oracle.model.checkpoint.config.seq_len)
        ended = search.call(tried.shape, tried.form, prompt=prompt, steps=steps, files=search._files(tried.form)).seen
        story = oracle.printed(long)
        has_stopped = len(ended.stdout) <= len(story) + 200 and story.strip()[-12:] in ended.stdout[-400:]
        is_exact = ended.stdout == story
        if has_stopped:
            self.note("", "BOS ends its text.")
        elif story.strip()[-12:] in ended.stdout:
            self.note("", "BOS does not end its text: it goes on with another story.")
        return is_exact and as_llama2c + b"\n" == seen

    def _prints_like_llama2c(self) -> bool:
        oracle = self.search.oracle(self.tried.form)
        return self.tried.seen.stdout == oracle.printed(oracle.ids(oracle.task.prompt, oracle.task.steps))

    def _empty_prompt(self, verdict: Verdict) -> None:
        tried = self.tried
        if verdict is Verdict.REPRODUCES and tried.takes_prompt:
            again = self.search.call(tried.shape, tried.form, prompt=b"")
            if not again.is_success:
                self.note("", f"Given an empty prompt: {again.trial.outcome}.")

    def _steps_and_extras(self, reading: Reading) -> None:
        tried = self.tried
        oracle = self.search.oracle(tried.form)
        steps = oracle.task.steps
        if tried.is_success and tried.shape.passes("steps") and reading.positions is not None:
            n_prompt = oracle.expect(oracle.task.prompt, steps).n_prompt - 1 if tried.takes_prompt else 0
            extra = reading.positions - steps
            if extra == 0:
                self.note("", "Its steps count positions, those of the prompt included, as llama2.c's do.")
            elif abs(extra - n_prompt) <= 1 and n_prompt > 1:
                self.note(
                    "", f"Its steps count generated tokens only: {steps} steps gave {reading.positions} positions."
                )
            else:
                self.note(
                    "", f"Its steps count otherwise than llama2.c's: {steps} gave {reading.positions} positions."
                )
        habits = [what for what in reading.conventions if tried.is_success]
        text = reading.text.strip()
        if tried.is_success and AGAIN not in habits and len(text) > 40 and tried.seen.stdout.count(text[-40:]) > 1:
            habits.append(AGAIN)
        if habits:
            self.note("", f"How it prints: {', '.join(habits)}.")

    def _speed(self, lines: list[str]) -> None:
        """Write a pattern for its own speed line only where the common ones do not find it."""
        seen = self.tried.seen
        value = reported_tps(None, seen.stderr_tail, seen.stdout)
        tail = f"{seen.stderr_tail}\n{seen.stdout.decode('utf-8', 'replace')}"
        if value is not None:
            line = next((line for line in tail.splitlines() if re.search(r"tok|t/s|tps", line, re.IGNORECASE)), "")
            self.note("", f"Its own speed, {value:g} tok/s, is found by the usual pattern in {line.strip()[-60:]!r}.")
            return
        number = r"([0-9][0-9.,]*(?:[eE][+-]?[0-9]+)?|inf)"
        for line in reversed(tail.splitlines()):
            if not re.search(r"speed|throughput|tok\w*.{0,12}(?:sec|\bs\b)|tps", line, re.IGNORECASE):
                continue
            if place := re.search(r"\d[\d.,]*", line):
                pattern = re.escape(line[: place.start()].strip()[-40:]).replace(r"\ ", " ") + r"\s*" + number
                self.note("tps", f"its own speed stands in the line {line.strip()[-80:]!r}")
                self._put(lines, "tps", toml_text.string(pattern))
                return


# ---- small parts


def _nothing() -> Trial:
    return Trial(0, "", "", "", "", b"", "")


def _mark(text: str) -> str:
    """Reduce an output to what kind it is: numbers and paths do not count."""
    return re.sub(r"\d+(?:\.\d+)?", "#", re.sub(r"\S*/\S+|'[^'\n]*'|\"[^\"\n]*\"", "~", text))[:400]


def _masked(stdout: bytes) -> bytes:
    return re.sub(rb"\d+(?:[.,:]\d+)*", b"#", stdout)


def _quoted(text: bytes, limit: int = 60) -> str:
    shown = text.decode("utf-8", "replace")
    return repr(shown if len(shown) <= limit else shown[:limit] + "...")


def _shown(command: Sequence[str], files: ModelFiles, source: Path) -> str:
    """Return a command line in which the model's files and the program's have short names."""
    names = {str(files.checkpoint): "MODEL", str(files.tokenizer): "TOKENIZER", f"{source}/": "./"}
    words = []
    for word in command:
        for path, name in names.items():
            word = word.replace(path, name)
        words.append(re.sub(r"\S*/harness-run-[^/\s]+/model", "MODEL_DIR", word))
    return shlex.join(words)


def _outcome(tried: _Tried, usage_marks: set[str]) -> str:
    reading, seen = tried.reading, tried.seen
    if reading is not None:
        return (
            f"{reading.n_match} tokens of the reference's text{'' if tried.takes_prompt else ', without the prompt'}"
        )
    words = [seen.failure.what] if seen.failure else []
    if _mark(tried.output) in usage_marks or looks_like_usage(tried.output):
        words.append("explained its usage")
    elif seen.stdout.strip():
        words.append(f"printed {_quoted(seen.stdout.strip(), 40)}")
    elif last := [line for line in seen.stderr_tail.splitlines() if line.strip()][-1:]:
        words.append(last[0].strip()[:80])
    return ": ".join(words) or "printed nothing"


def _template(command: Sequence[str], path: Path) -> list[str]:
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


def _name(command: Sequence[str], path: Path) -> str:
    script = next((word for word in reversed(command) if os.path.isfile(word)), command[0])
    stem = Path(script).stem
    if stem in ("run", "main", "index", "llama2", "app") and path.absolute().parent.name:
        stem = path.absolute().parent.name
    cleaned = re.sub(r"[^A-Za-z0-9._+-]+", "-", stem).lstrip("._+-")
    return cleaned or "program"


def _language(command: Sequence[str]) -> str:
    for word in command:
        if language := _SCRIPTS.get(Path(word).suffix):
            return language
    return {"java": "Java"}.get(Path(command[0]).name, "")


def _inline(pairs: Sequence[tuple[str, object]]) -> str:
    return "{ " + ", ".join(f"{toml_text.string(key)} = {_value(value)}" for key, value in pairs) + " }"


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return toml_text.string(value) if isinstance(value, str) else str(value)


def _needs(form: Form) -> list[tuple[str, object]]:
    needs: list[tuple[str, object]] = []
    if form.mha:
        needs.append(("mha", True))
    if form.untied:
        needs.append(("tied", False))
    if form.vocab_size:
        needs.append(("vocab_size", form.vocab_size))
    if form.hidden_multiple:
        needs.append(("hidden_multiple", form.hidden_multiple))
    if form.layout != "today":
        needs.append(("tokenizer_layout", form.layout))
    return needs


def _wrapped(text: str) -> list[str]:
    """Make a text fit for a comment: one line without control characters."""
    return ["".join(letter if letter.isprintable() else "?" for letter in text)]


def _with_other_gains(model: Model) -> checkpoints.Checkpoint:
    """The same model with its final gains turned round, so that it says something else."""
    weights = model.checkpoint
    tensors = dict(weights.tensors)
    gains = tensors["final_norm"]
    tensors["final_norm"] = -gains[::-1]  # type: ignore[index, operator]
    return replace(weights, tensors=tensors)


def _swapped(model: Model, a: int, b: int) -> checkpoints.Checkpoint:
    """The same model with two ids exchanged."""
    weights = model.checkpoint
    tensors = dict(weights.tensors)
    for name in ("tok_embedding", "lm_head"):
        if name in tensors:
            table = tensors[name].copy()  # type: ignore[union-attr]
            table[[a, b]] = table[[b, a]]
            tensors[name] = table
    return replace(weights, tensors=tensors)
