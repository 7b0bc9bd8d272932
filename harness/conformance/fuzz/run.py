"""fuzz: generated models x implementations, until the time is over; failures are shrunk, and tried first next time.

Programs take turns, a round of models each. One seed gives them the same models, which are drawn once for all, as is
what the reference says of them. A program that failed is given nothing but smaller models that fail in the same way;
what that comes to is saved, and it has had its run.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from harness.adapters.implementation import ProcessImplementation
from harness.conformance.claim import last_line
from harness.conformance.fuzz import saved
from harness.conformance.fuzz.recipe import Recipe
from harness.conformance.fuzz.saved import Failure
from harness.conformance.fuzz.trial import Asked, Subjects, Trier
from harness.engine import blas_threads
from harness.errors import BuildFailed, MissingDependency
from harness.models import cache_dir
from harness.results import Kind

if TYPE_CHECKING:
    from harness.conformance.fuzz.strategy import Room

__all__ = ["Outcome", "Tally", "default_home", "fuzz"]

ROUND = 200
"""Models that a program is given in its turn."""

EVERY = 10
"""Of a program with the line protocol, one model in so many is put to a process of its own, too: TEXT and TRACE."""

Progress = Callable[["Tally", float], None]
"""Told of a program's tally every now and then, with the seconds that are left."""


@dataclass(slots=True)
class Tally:
    """What came of one program.

    Attributes:
        levels: those that it was judged at.
        n_models: different ones that it was given.
        n_without_margins: drawn, and not given to it.
        n_replayed: saved failures that were tried again.
        n_judged: tokens and rows of logits.
        n_operations: recorded values, each judged by what it was made from.
        kinds: verdicts by level.
        took_s: the judge's time included.
        skipped: why it was not run.
    """

    impl: str
    levels: tuple[str, ...] = ()
    n_models: int = 0
    n_without_margins: int = 0
    n_replayed: int = 0
    n_judged: int = 0
    n_operations: int = 0
    kinds: dict[str, Counter[Kind]] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    took_s: float = 0.0
    skipped: str = ""

    @property
    def models_per_minute(self) -> float:
        return 60 * self.n_models / self.took_s if self.took_s else 0.0

    @property
    def is_green(self) -> bool:
        """Whether something was judged, and nothing was wrong."""
        n_green = sum(n for kinds in self.kinds.values() for kind, n in kinds.items() if kind.is_green)
        return not self.skipped and not self.failures and n_green > 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """A whole run.

    Attributes:
        is_whole: whether it came to its end, and was not interrupted.
    """

    seed: int
    tallies: tuple[Tally, ...]
    took_s: float
    is_whole: bool

    @property
    def failures(self) -> list[Failure]:
        return [failure for tally in self.tallies for failure in tally.failures]


def default_home() -> Path:
    """Where failures are kept unless another directory is given."""
    return cache_dir() / "fuzz"


def fuzz(
    impls: Sequence[ProcessImplementation],
    *,
    minutes: float = 1.0,
    minutes_each: float | None = None,
    models: int | None = None,
    seed: int = 1,
    levels: Sequence[str] = (),
    every: int = EVERY,
    is_sampled: bool = True,
    home: Path | None = None,
    time_s: float = 10.0,
    calls: Mapping[str, str] | None = None,
    progress: Progress = lambda tally, left_s: None,
    clock: Callable[[], float] = time.monotonic,
) -> Outcome:
    """Put generated models to programs, and shrink what they get wrong.

    Args:
        minutes: until no new model is begun; a failure that was found is shrunk all the same.
        minutes_each: of one program, at most: one that starts slowly for each model would take all of them.
        models: different ones for each program, at most.
        seed: of what is drawn; the same seed gives the same models.
        levels: as `Trier` takes them.
        every: levels that take a process for each model (TEXT, TRACE) are judged on the first of so many models,
            where there are others.
        is_sampled: whether seeded draws are asked for, too: wrong in a program whose random generator is another.
        home: directory of the failures, those of earlier runs among them.
        time_s: limit for one request.
        calls: by its name, what a program is called on a command line.

    Raises:
        MissingDependency: Hypothesis is not installed.
        InputError: a program cannot be given generated models; a failure cannot be saved.
    """
    home = home or default_home()
    begun = clock()
    deadline = begun + 60 * minutes
    subjects, decks = Subjects(ROUND + 50), _Decks(seed)
    is_whole = True
    with contextlib.ExitStack() as stack, blas_threads(1):
        stack.enter_context(_hypothesis_in(home))
        players = []
        for impl in impls:
            trier = stack.enter_context(Trier(impl, levels=levels, time_s=time_s))
            players.append(
                _Player(
                    trier,
                    subjects,
                    decks,
                    home,
                    called=(calls or {}).get(impl.name, impl.name),
                    is_sampled=is_sampled,
                    every=every,
                    models=models,
                    seconds=None if minutes_each is None else 60 * minutes_each,
                    deadline=deadline,
                    clock=clock,
                )
            )
        try:
            for player in players:
                player.prepare()
                player.replay()
                progress(player.tally, deadline - clock())
            for turn in _turns():
                live = [player for player in players if not player.is_done]
                if not live:
                    break
                # Those that are given the same models one after the other, while what is known of these is kept.
                for player in sorted(live, key=lambda one: one.room.is_int8):
                    player.play(turn)
                    progress(player.tally, deadline - clock())
        except KeyboardInterrupt:
            is_whole = False
            for player in players:
                player.keep()
    return Outcome(seed, tuple(player.tally for player in players), clock() - begun, is_whole)


@contextlib.contextmanager
def _hypothesis_in(home: Path) -> Iterator[None]:
    """Have Hypothesis keep its own files here; else it leaves a directory where the harness is started.

    Raises:
        MissingDependency: it is not installed.
    """
    try:
        from hypothesis.configuration import set_hypothesis_home_dir
    except ImportError as error:
        raise MissingDependency("Hypothesis", install="pip install 'llama-harness[fuzz]'") from error
    set_hypothesis_home_dir(home / "hypothesis")
    try:
        yield
    finally:
        set_hypothesis_home_dir(None)


def _turns() -> Iterator[int]:
    turn = 0
    while True:
        yield turn
        turn += 1


class _Player:
    """One program's part of a run."""

    def __init__(
        self,
        trier: Trier,
        subjects: Subjects,
        decks: _Decks,
        home: Path,
        *,
        called: str,
        is_sampled: bool,
        every: int,
        models: int | None,
        seconds: float | None,
        deadline: float,
        clock: Callable[[], float],
    ) -> None:
        self._trier = trier
        self._subjects = subjects
        self._decks = decks
        self._home = home
        self._called = called
        self._models = models
        self._every = every
        self._seconds = seconds
        self._deadline = deadline
        self._clock = clock
        from harness.conformance.fuzz.strategy import room_for

        manifest = trier.impl.manifest
        self.room: Room = room_for(manifest, is_sampled=is_sampled and not manifest.greedy_only)
        self._seen: set[int] = set()
        self._focus: tuple[str, Kind] | None = None
        self._smallest: tuple[Recipe, Asked] | None = None
        self._after = 0
        self._begun: float | None = None
        self.tally = Tally(trier.impl.name, trier.levels)

    @property
    def is_done(self) -> bool:
        tally = self.tally
        is_enough = self._models is not None and tally.n_models >= self._models
        return bool(tally.skipped or tally.failures) or is_enough or self._is_late

    @property
    def _is_late(self) -> bool:
        now = self._clock()
        took_s = self.tally.took_s + (0.0 if self._begun is None else now - self._begun)
        return now >= self._deadline or (self._seconds is not None and took_s >= self._seconds)

    def prepare(self) -> None:
        """Build it, so that this is not part of its time."""
        try:
            self._trier.impl.out()
        except BuildFailed as error:
            self.tally.skipped = f"{error.what}: {last_line(error.stderr_tail)}"
        except MissingDependency as error:
            self.tally.skipped = str(error)
        else:
            if not self._trier.levels:
                self.tally.skipped = "claims no level that was asked for"

    def replay(self) -> None:
        """Try what it failed on before, first of all."""
        if self.tally.skipped:
            return
        begun = self._clock()
        for directory in saved.of(self._home, self._trier.impl.manifest):
            done = saved.again(directory, self._trier)
            self.tally.n_replayed += 1
            self._count(done)
            if done[-1].verdict.kind.is_failure:
                self.tally.failures.append(saved.known(directory, done[-1], self._called))
        self.tally.took_s += self._clock() - begun

    def play(self, turn: int) -> None:
        """Give it a round of new models."""
        deck = self._decks.of(self.room, turn)
        is_shrunk = False
        self._begun = self._clock()
        try:
            wrong = next((recipe for recipe in deck if self._is_wrong(recipe)), None)
            if wrong is not None:
                is_shrunk = self._decks.shrink(self.room, turn, wrong, self._fails)
        finally:
            self.tally.took_s += self._clock() - self._begun
            self._begun = None
        if self._smallest is not None:
            self._save(is_shrunk=is_shrunk)

    def keep(self) -> None:
        """Save a failure whose shrinking was interrupted."""
        if self._smallest is not None:
            self._save(is_shrunk=False)

    def _save(self, *, is_shrunk: bool) -> None:
        assert self._smallest is not None
        recipe, wrong = self._smallest
        self._smallest = None
        subject = self._subjects.of(recipe)
        failure = saved.save(
            recipe,
            subject,
            wrong,
            self._trier,
            self._home,
            called=self._called,
            after=self._after,
            is_shrunk=is_shrunk,
        )
        self.tally.failures.append(failure)

    def _is_wrong(self, recipe: Recipe) -> bool:
        """Give a new model to the program."""
        if self.is_done or hash(replace(recipe, format="")) in self._seen:
            return False
        self._seen.add(hash(replace(recipe, format="")))
        if not self._subjects.of(recipe).has_margins:
            self.tally.n_without_margins += 1
            return False
        self.tally.n_models += 1
        self._after = self.tally.n_models
        return self._fails(recipe)

    def _fails(self, recipe: Recipe) -> bool:
        """Whether the program fails; in the same way, once it has failed."""
        subject = self._subjects.of(recipe)
        if not subject.has_margins:
            return False
        done = self._trier.try_recipe(recipe, subject, self._levels)
        if self._focus is None:
            self._count(done)
        last = done[-1]
        signature = (last.what, last.verdict.kind)
        if not last.verdict.kind.is_failure or self._focus not in (None, signature):
            return False
        self._focus = signature
        if self._smallest is None or _size(recipe) <= _size(self._smallest[0]):
            self._smallest = (recipe, last)
        return True

    @property
    def _levels(self) -> tuple[str, ...]:
        """At which the next model is judged."""
        if self._focus is not None:
            return self._focus[:1]
        return self._trier.levels if self.tally.n_models % self._every == 1 % self._every else self._trier.quick

    def _count(self, done: Sequence[Asked]) -> None:
        for one in done:
            self.tally.kinds.setdefault(one.what, Counter())[one.verdict.kind] += 1
            if one.what == "TRACE":
                self.tally.n_operations += one.verdict.n_judged
            else:
                self.tally.n_judged += one.verdict.n_judged


def _size(recipe: Recipe) -> tuple[int, int, int]:
    """What is to be small: the model, then what is asked of it."""
    n_asked = len(recipe.prompt) + recipe.n_probe + sum(ask.n for ask in recipe.asks)
    return (recipe.config.n_params, recipe.config.seq_len, n_asked)


class _Decks:
    """The recipes of each turn, drawn by Hypothesis once for all programs that can be given them."""

    def __init__(self, seed: int) -> None:
        from hypothesis import HealthCheck, Phase, settings

        self._seed = seed
        self._turn = 0
        self._known: dict[Room, list[Recipe]] = {}
        # Its own database does not go with a seed; failures are kept as directories, which outlive the draws.
        self._how = settings(
            phases=(Phase.generate, Phase.shrink),
            max_examples=ROUND,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )

    def of(self, room: Room, turn: int) -> list[Recipe]:
        if turn != self._turn:
            self._turn, self._known = turn, {}
        if room not in self._known:
            drawn: list[Recipe] = []

            def keep(recipe: Recipe) -> bool:
                drawn.append(recipe)
                return False

            self._find(room, turn, keep)
            self._known[room] = drawn
        return self._known[room]

    def shrink(self, room: Room, turn: int, wrong: Recipe, fails: Callable[[Recipe], bool]) -> bool:
        """Draw a turn again up to a recipe that failed, and make it smaller; return whether that came to its end."""
        is_reached = False

        def is_wrong(recipe: Recipe) -> bool:
            nonlocal is_reached
            is_reached = is_reached or recipe == wrong
            return is_reached and fails(recipe)

        return self._find(room, turn, is_wrong)

    def _find(self, room: Room, turn: int, is_wrong: Callable[[Recipe], bool]) -> bool:
        from hypothesis import find
        from hypothesis.errors import Flaky, NoSuchExample

        from harness.conformance.fuzz.strategy import from_seed_alone, recipes

        try:
            with from_seed_alone():
                find(recipes(room), is_wrong, settings=self._how, random=Random(f"{self._seed}/{turn}"))
        except (NoSuchExample, Flaky):  # Flaky: the same question was answered otherwise
            return False
        return True
