"""The search for a way of calling a program: shapes, then forms of the model, then signs of dependence."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.adapters import toolchain
from harness.conformance.adopt.options import Usage, file_names, looks_like_usage, mine, mine_program
from harness.conformance.adopt.shapes import (
    FLAGS,
    FORMS,
    NOTHING,
    PLAIN,
    Shape,
    common_shapes,
    mined_shapes,
    with_files,
)
from harness.conformance.adopt.trials import Trials, Tried, kind_of
from harness.errors import InputError, StartFailed

__all__ = ["NotStarted", "Search"]

BUDGET_S = 60.0  # of searching; what was found by then is taken
_ENOUGH = 80  # trials that end by themselves are made on any machine, however slow: what is found hangs on no clock
_PROBE_S = 5.0
_TEXT_BYTES = 30  # less is hardly a text
_MAX_FORM_SHAPES = 4
_BEGINS = 2  # tokens of the reference's text that no other file gives
_MAX_ALIKE = 8  # right outputs without the prompt, all the same: no other shape will change it


class NotStarted(Exception):
    """The program cannot be started at all."""


@dataclass(slots=True)
class Search:
    """Finds the best way of calling a program among all that can be tried.

    Attributes:
        trials: where the program is called.
        found_names: names of files that the program mentions.
        deadline: when to be content with what there is, if enough was tried.
    """

    trials: Trials
    found_names: list[str] = field(default_factory=list)
    deadline: float = 0.0

    def run(self) -> Tried | None:
        """Return the best trial: a right one, else one whose output depends on what it is given, else None.

        Raises:
            NotStarted: the program cannot be started.
        """
        self.deadline = time.monotonic() + BUDGET_S
        best: Tried | None = None
        differing: Tried | None = None
        examined: set[str] = set()
        alike = 0
        first = self.trials.call(FLAGS)
        if isinstance(first.seen.failure, StartFailed):
            raise NotStarted(first.seen.failure.what)
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
                alike += tried.bare == best.bare
                if alike > _MAX_ALIKE:
                    break  # whatever it is given
            elif (
                best is None and self._is_text(tried) and kind_of(tried.output) not in examined and len(examined) < 3
            ):
                # A text, and the wrong one: another form of the model, or a bug.
                examined.add(kind_of(tried.output))
                dependence, _ = self.trials.dependence(tried)
                if dependence < 4:
                    continue  # it is no model's text, or does not know of the temperature
                best = self._by_forms([tried])
                if best is not None:
                    break
                if dependence >= 5:
                    differing = tried
                    break
            if self._is_over:
                break
        if best is None and differing is None:
            best = self._by_forms(self._nearest())
        if best is None and differing is None:
            differing = self._differing()
        return best or differing

    @property
    def _is_over(self) -> bool:
        trials = self.trials
        is_enough = trials.n_ended >= _ENOUGH or trials.n_hung >= trials.n_ended
        return trials.is_mute or (is_enough and time.monotonic() > self.deadline)

    def _shapes(self, first: Tried) -> Iterator[Tried | None]:
        """Yield a trial of every shape on the plain form, common ones first; None before the less likely ones."""
        yield first
        usage = self._probe(first)
        yield self.trials.call(with_files(NOTHING, self.found_names))
        mined = [*mined_shapes(usage), *(() if usage else self._from_program())]
        for shape in (*mined, None, *common_shapes()):
            if shape is None:
                yield None
                continue
            tried = self.trials.call(with_files(shape, self.found_names))
            yield tried
            # A message may name the file that was looked for.
            missing = [name for name in file_names(tried.output) if name not in dict(tried.shape.files)]
            if missing and not tried.is_success:
                self.found_names += [name for name in missing if name not in self.found_names][:8]
                again = with_files(shape, self.found_names)
                if again.files != tried.shape.files:
                    yield self.trials.call(again)
        if not usage or not any(tried.promise >= 0 for tried in self.trials.tried.values()):
            for shape in (replace(FLAGS, cwd="{src}", name="llama2.c flags, run where it lies"),):
                yield self.trials.call(shape)

    def _probe(self, first: Tried) -> Usage:
        """Ask the program how it is called: its words without arguments, to --help and to -h."""
        best = mine(first.output, program=self.trials.command) if looks_like_usage(first.output) else Usage()
        if looks_like_usage(first.output):
            self.trials.usage_kinds.add(kind_of(first.output))
        for flag in ("", "--help", "-h"):
            if len(best.options) >= 3:
                break
            shape = Shape(f"asking with {flag or 'no arguments'}", ((flag,),) if flag else ())
            tried = self.trials.call(with_files(shape) if not flag else shape, time_s=_PROBE_S)
            self.found_names += [name for name in file_names(tried.output) if name not in self.found_names][:8]
            if looks_like_usage(tried.output):
                self.trials.usage_kinds.add(kind_of(tried.output))
                found = mine(tried.output, program=self.trials.command)
                best = max(best, found, key=lambda one: len(one.options) + len(one.positionals))
        return best

    def _from_program(self) -> list[Shape]:
        """Build shapes from the texts in the program itself, and note the file names in it."""
        usage = Usage()
        for word in self.trials.command:
            path = Path(toolchain.find(word) or word) if word is self.trials.command[0] else Path(word)
            is_own = len(self.trials.command) == 1 or word is not self.trials.command[0]
            if not is_own or not path.is_file() or path.stat().st_size > 64 << 20:
                continue
            content = path.read_bytes()
            usage = usage or mine_program(content)
            self.found_names += file_names(content.decode("latin-1"))[:16]
        return mined_shapes(usage)

    def _is_text(self, tried: Tried) -> bool:
        return tried.seen.failure is None and tried.promise >= 8

    def _nearest(self) -> list[Tried]:
        """Return the failures that came nearest, one of each kind."""
        kinds: dict[str, Tried] = {}
        for tried in sorted(self.trials.tried.values(), key=lambda one: (-one.promise, one.trial.number)):
            if tried.form is PLAIN and tried.trial.shape[:6] != "asking":
                kinds.setdefault(kind_of(tried.output), tried)
        return list(kinds.values())[:_MAX_FORM_SHAPES]

    def _by_forms(self, shapes: Iterable[Tried]) -> Tried | None:
        """Give these shapes the model in other forms; return the first whose text is the reference's."""
        found: Tried | None = None
        shapes = list(shapes)
        # A program that begins as the reference does has read the float32 file: no other form will mend the rest.
        reads_plain = any(max(t.prompted.n_match, t.unprompted.n_match) >= _BEGINS for t in shapes)
        for form in FORMS:
            if reads_plain and form.format == "llama2c-v2":
                continue
            for tried in shapes:
                if self._is_over:
                    return found
                try:
                    again = self.trials.call(tried.shape, form)
                except InputError:  # this model has no such form
                    break
                if again.takes_prompt:
                    return again
                if again.is_success and (found is None or again.rank > found.rank):
                    found = again
        return found

    # -- where nothing reproduces the reference

    def _differing(self) -> Tried | None:
        """Return the trial whose output depends on what it was given as it should."""
        best: tuple[int, Tried] | None = None
        candidates = [one for one in self.trials.tried.values() if len(one.seen.stdout.strip()) >= _TEXT_BYTES]
        kinds: Counter[str] = Counter()
        for tried in sorted(candidates, key=lambda one: (-one.promise, one.trial.number)):
            kinds[kind_of(tried.output)] += 1
            if kinds[kind_of(tried.output)] > 1 or tried.promise < 0 or len(kinds) > 6:
                continue
            score, _ = self.trials.dependence(tried)
            if score >= 4 and (best is None or score > best[0]):
                best = (score, tried)
        return best[1] if best else None
