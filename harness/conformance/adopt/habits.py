"""What the found way of calling leaves open is measured here, and the manifest written, with its reasons."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness import checkpoint as checkpoints
from harness.adapters.extract import AGAIN, reported_tps
from harness.conformance import toml_text
from harness.conformance.adopt.reading import Reading
from harness.conformance.adopt.shapes import PLAIN, Form
from harness.conformance.adopt.trials import Trials, Tried, numbers_masked, quoted, template
from harness.models import Model

__all__ = ["SCRIPTS", "Evidence", "Habits"]

SCRIPTS = {
    ".py": "Python", ".js": "JavaScript", ".mjs": "JavaScript", ".cjs": "JavaScript", ".ts": "TypeScript",
    ".rb": "Ruby", ".pl": "Perl", ".lua": "Lua", ".php": "PHP", ".jl": "Julia", ".sh": "shell", ".jar": "Java",
    ".go": "Go", ".R": "R", ".exs": "Elixir",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Evidence:
    """Why a key of the manifest has its value, or what else was seen."""

    key: str
    text: str


@dataclass(slots=True)
class Habits:
    """Measures what the found way of calling leaves open, and writes it down."""

    trials: Trials
    tried: Tried
    evidence: list[Evidence] = field(default_factory=list)

    def note(self, key: str, text: str) -> None:
        self.evidence.append(Evidence(key, text))

    def manifest(self) -> str:
        """Measure, and return the text of the manifest."""
        tried, form = self.tried, self.tried.form
        shape = tried.shape
        name = _name(self.trials.command, self.trials.path)
        lines = [
            "# How to call this program, found by `harness adopt`; each choice stands below what showed it.",
            f"name = {toml_text.string(name)}",
        ]
        if language := _language(self.trials.command):
            lines.append(f"language = {toml_text.string(language)}")
        self._shape_evidence()
        self._form_evidence()
        is_llama2c = self._sampling() if tried.is_success else False
        stops = self._stopping() if tried.is_success else False
        self._empty_prompt()
        prints = tried.is_success and self._prints_like_llama2c()
        words = [*template(self.trials.command, self.trials.path), *shape.words]
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
        if any(one.key == "greedy_only" for one in self.evidence):
            self._put(lines, "greedy_only", "true")
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

    def _shape_evidence(self) -> None:
        tried = self.tried
        trial, reading = tried.trial, tried.reading or tried.prompted
        task = self.trials.oracle(tried.form).task
        expected = self.trials.oracle(tried.form).expect(task.prompt if tried.prompted.is_right else b"", task.steps)
        how = f"trial {trial.number} ({trial.shape}), `{trial.command}`,"
        if tried.is_success:
            total = task.steps - (expected.n_prompt - 1) if reading.positions == task.steps else reading.n_match
            text = f"{how} printed {quoted(reading.text)}: {reading.n_match} of {max(total, reading.n_match)}"
            self.note("run", f"{text} generated tokens are the reference's")
            if not tried.takes_prompt:
                self.note("run", "no way of giving it a prompt was found: this is its text without one")
        else:
            n = tried.prompted.n_match
            self.note("run", f"{how} printed {quoted(tried.seen.stdout)}")
            _, words = self.trials.dependence(tried)
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
        plain = self.trials.call(self.tried.shape, PLAIN)
        seen = f"given {form.name} it was right; given the plain model of version 0: {plain.trial.outcome}"
        self.note("formats" if form.format != "llama2c-v0" else "needs", seen)

    def _sampling(self) -> bool:
        """Run it sampled with a seed; return whether its tokens are those of llama2.c's generator."""
        tried, trials = self.tried, self.trials
        oracle = trials.oracle(tried.form)
        task = oracle.task
        absent = [role for role in ("steps", "temperature", "topp", "seed") if not tried.shape.passes(role)]
        if absent:
            self.note("", f"No option was found for: {', '.join(absent)}.")
        if not tried.shape.passes("temperature"):
            return False
        prompt = task.prompt if tried.takes_prompt else b""

        temperature, seed, ids = oracle.sampled(prompt, task.steps)
        how = f"at temperature {temperature:g}, top-p 0.9, seed {seed}"

        def again() -> Tried:
            return trials.call(
                tried.shape,
                tried.form,
                prompt=prompt,
                files=trials.in_form(tried.form),
                temperature=temperature,
                topp=0.9,
                seed=seed,
            )

        seen = again()
        if (failure := seen.seen.failure) is not None:
            last = (failure.stderr_tail or "").strip().splitlines()[-1:]
            self.note("greedy_only", f"sampled {how} it {failure.what}" + "".join(f": {line}" for line in last))
            return False
        first = seen.bare
        if first == tried.bare:
            self.note("", f"Sampled {how} it printed the greedy text: the temperature seems to have no effect.")
            return False
        if not tried.shape.passes("seed"):
            self.note("", "Without a seed its sampled text cannot be told in advance.")
            return False
        expected = oracle.printed(ids)
        pairs = zip(numbers_masked(expected).strip(), first.strip(), strict=False)
        common = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
        if common >= min(len(expected.strip()), 60) or numbers_masked(expected).strip() in first:
            self.note("", f"Sampled {how} its text was that of llama2.c's generator.")
            return True
        if again().bare != first:
            self.note("", "Sampled twice with one seed it printed two texts: the seed seems to have no effect.")
        else:
            self.note(
                "", "A seed repeats its sampled text, but the generator is not llama2.c's: no sampled case applies."
            )
        return False

    def _stopping(self) -> bool:
        """See whether a BOS ends its text, and an EOS; return whether both are as in llama2.c."""
        tried, trials = self.tried, self.trials
        if not tried.shape.passes("steps"):
            return False
        oracle = trials.oracle(tried.form)
        tokenizer = oracle.model.tokenizer
        task = oracle.task
        prompt = task.prompt if tried.takes_prompt else b""
        ids = oracle.ids(prompt, task.steps)
        target = ids[min(len(tokenizer.encode(prompt)) + 9, len(ids) - 1)]
        if oracle.is_int8 or target in tokenizer.encode(prompt):
            return False
        changed = trials.changed(tried.form, "eos", lambda model: _swapped(model, target, tokenizer.eos_id))
        seen = trials.call(tried.shape, tried.form, prompt=prompt, files=changed).seen.stdout
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
        ended = trials.call(
            tried.shape, tried.form, prompt=prompt, steps=steps, files=trials.in_form(tried.form)
        ).seen
        story = oracle.printed(long)
        has_stopped = len(ended.stdout) <= len(story) + 200 and story.strip()[-12:] in ended.stdout[-400:]
        is_exact = ended.stdout == story
        if has_stopped:
            self.note("", "BOS ends its text.")
        elif story.strip()[-12:] in ended.stdout:
            self.note("", "BOS does not end its text: it goes on with another story.")
        return is_exact and as_llama2c + b"\n" == seen

    def _prints_like_llama2c(self) -> bool:
        oracle = self.trials.oracle(self.tried.form)
        return self.tried.seen.stdout == oracle.printed(oracle.ids(oracle.task.prompt, oracle.task.steps))

    def _empty_prompt(self) -> None:
        tried = self.tried
        if tried.takes_prompt:
            again = self.trials.call(tried.shape, tried.form, prompt=b"")
            if not again.is_success:
                self.note("", f"Given an empty prompt: {again.trial.outcome}.")

    def _steps_and_extras(self, reading: Reading) -> None:
        tried = self.tried
        oracle = self.trials.oracle(tried.form)
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


def _name(command: Sequence[str], path: Path) -> str:
    script = next((word for word in reversed(command) if os.path.isfile(word)), command[0])
    stem = Path(script).stem
    if stem in ("run", "main", "index", "llama2", "app") and path.absolute().parent.name:
        stem = path.absolute().parent.name
    cleaned = re.sub(r"[^A-Za-z0-9._+-]+", "-", stem).lstrip("._+-")
    return cleaned or "program"


def _language(command: Sequence[str]) -> str:
    for word in command:
        if language := SCRIPTS.get(Path(word).suffix):
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
