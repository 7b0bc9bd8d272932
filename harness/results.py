"""Request, Observation, Verdict: what is asked of an implementation, what it did, and what we say of it.

A Verdict is about tokens. How a program prints, stops and counts is found, named in `conventions`, and green.
Counts of different kinds are never merged into a percentage.
"""

from __future__ import annotations

import enum
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import (
    BuildFailed,
    Crashed,
    ImplementationError,
    MemoryLimit,
    NoOutput,
    OutputLimit,
    ProtocolViolation,
    Refused,
    StartFailed,
    TimedOut,
    Unsupported,
)

__all__ = [
    "AngleReading",
    "BlackBoxTrace",
    "Certificate",
    "Conclusion",
    "Cut",
    "Diagnosis",
    "Divergence",
    "Kind",
    "Observation",
    "Request",
    "Suspect",
    "Trace",
    "Verdict",
    "WrongOperation",
    "count",
    "kind_of_failure",
]


class Kind(enum.StrEnum):
    """Every verdict there is. Only EXACT, TIE and WITHIN are green."""

    EXACT = "EXACT"  # every token is the reference's
    TIE = "TIE"  # differs only where the reference cannot tell, with a certificate for each place
    WITHIN = "WITHIN"  # inside the noise floor of the declared precision
    MISMATCH = "MISMATCH"  # wrong
    INCONCLUSIVE = "INCONCLUSIVE"  # too little was judged
    UNSUPPORTED = "UNSUPPORTED"  # declared, or shown, not to be offered
    SKIPPED = "SKIPPED"  # not run, with the reason
    BLOCKED = "BLOCKED"  # an earlier gate failed
    KNOWN = "KNOWN"  # a listed deviation that did happen
    BUILD_FAILED = "BUILD_FAILED"
    START_FAILED = "START_FAILED"
    NO_OUTPUT = "NO_OUTPUT"
    CRASHED = "CRASHED"
    TIMED_OUT = "TIMED_OUT"
    OUTPUT_LIMIT = "OUTPUT_LIMIT"
    MEMORY_LIMIT = "MEMORY_LIMIT"
    PROTOCOL = "PROTOCOL"

    @property
    def is_green(self) -> bool:
        return self in (Kind.EXACT, Kind.TIE, Kind.WITHIN)

    @property
    def is_failure(self) -> bool:
        """Whether the case itself failed (as opposed to: was not judged, or is excused)."""
        return self not in (
            Kind.EXACT,
            Kind.TIE,
            Kind.WITHIN,
            Kind.INCONCLUSIVE,
            Kind.UNSUPPORTED,
            Kind.SKIPPED,
            Kind.BLOCKED,
            Kind.KNOWN,
        )


_FAILURES: dict[type[ImplementationError], Kind] = {
    BuildFailed: Kind.BUILD_FAILED,
    StartFailed: Kind.START_FAILED,
    NoOutput: Kind.NO_OUTPUT,
    Crashed: Kind.CRASHED,
    TimedOut: Kind.TIMED_OUT,
    OutputLimit: Kind.OUTPUT_LIMIT,
    MemoryLimit: Kind.MEMORY_LIMIT,
    ProtocolViolation: Kind.PROTOCOL,
    Refused: Kind.CRASHED,  # as a program that says so and exits
    Unsupported: Kind.UNSUPPORTED,
}


def kind_of_failure(failure: ImplementationError) -> Kind:
    """Return the Verdict that an implementation's error becomes."""
    return _FAILURES[type(failure)]


@dataclass(frozen=True, slots=True)
class Request:
    """One thing asked of an implementation.

    Attributes:
        model, tokenizer: files that the program is given.
        prompt: bytes of the prompt; None where the option itself is left out.
        steps: positions to run, the echoed prompt included, as llama2.c counts them (0: the whole context).
        temperature, topp, seed: sampler settings; temperature 0 is greedy.
        threads: threads the program is asked to use.
        mode: "generate" or "chat".
        system: system prompt of a chat; None where the option is left out.
        stdin: bytes given on standard input, which is then closed.
    """

    model: Path
    tokenizer: Path
    prompt: bytes | None = b""
    steps: int = 256
    temperature: float = 0.0
    topp: float = 0.9
    seed: int = 1
    threads: int = 1
    mode: str = "generate"
    system: bytes | None = None
    stdin: bytes = b""


@dataclass(frozen=True, slots=True)
class Observation:
    """What a program did when it was asked.

    Attributes:
        command, cwd: what was run, and where.
        stdout: everything it wrote, up to the limit.
        stderr_tail: the end of what it wrote on stderr, decoded with replacement.
        exit_code: as in `subprocess` (negative for a signal); None if it had to be killed or never started.
        failure: why this is no result, or None. Whatever was printed before stays in stdout.
        wall_s: from just before the start to the end of the process.
        first_byte_s: from the start to its first byte of stdout; None if there was none.
        cpu_s: user plus system time of its processes.
        peak_rss_bytes: largest resident size of the process itself.
        reported_tps: its own claim of tokens per second, recorded, not believed.
        harness_cpu_s: processor time that this process took from the program's start to its end; None if it has no
            process of its own.
    """

    command: tuple[str, ...]
    cwd: str
    stdout: bytes
    stderr_tail: str = ""
    exit_code: int | None = 0
    failure: ImplementationError | None = None
    wall_s: float = 0.0
    first_byte_s: float | None = None
    cpu_s: float = 0.0
    peak_rss_bytes: int = 0
    reported_tps: float | None = None
    harness_cpu_s: float | None = None

    @property
    def command_line(self) -> str:
        """The command, quoted for a shell."""
        return " ".join(map(_shell_word, self.command))


def _shell_word(word: str) -> str:
    """Quote a word for a shell; what cannot be printed as bash and zsh escape it, for a command line is one line."""
    if not word or word.isprintable():
        return shlex.quote(word)
    plain = {"\\": "\\\\", "'": "\\'", "\n": "\\n", "\t": "\\t"}
    return f"$'{''.join(plain.get(c) or _shell_character(c) for c in word)}'"


def _shell_character(c: str) -> str:
    if c.isprintable():
        return c
    return "".join(f"\\x{byte:02x}" for byte in c.encode("utf-8", "surrogateescape"))


@dataclass(frozen=True, slots=True)
class Certificate:
    """The proof that a difference is a near tie: its regret is at most so many times the noise floor.

    For a sampled token it is the coin that lies near a border: some logits within the floor make it draw this token,
    whatever the regret.

    Attributes:
        position: index of the token in the sequence, BOS being 0.
        actual, expected: the chosen id and the reference's.
        actual_logit, expected_logit: their float64 logits (natural units of the softmax).
        floor: the noise floor measured at this position.
    """

    position: int
    actual: int
    expected: int
    actual_logit: float
    expected_logit: float
    floor: float

    @property
    def regret(self) -> float:
        return self.expected_logit - self.actual_logit


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first place where an implementation left what the reference allows.

    Attributes:
        step: index of the generated token (0: the first one after the prompt).
        position: index in the whole sequence, BOS being 0.
        expected, actual: ids; actual is None where no piece fits the bytes that were printed.
        regret, floor: in logits; nan where they do not apply.
        before: the text up to here that both agree on (its end).
        expected_text, actual_text: how the two go on.
    """

    step: int
    position: int
    expected: int | None
    actual: int | None
    regret: float
    floor: float
    before: str
    expected_text: str
    actual_text: str


class Conclusion(enum.StrEnum):
    """What a diagnosis can come to."""

    NAMED = "named"  # one fault, or a class that these observations cannot tell apart, explains all of them
    LOWER_PRECISION = "lower precision"  # so does a right program of a lower precision
    UNKNOWN = "unknown"  # nothing that was tried explains them
    NONE = "none"  # a right program explains them


@dataclass(frozen=True, slots=True)
class Suspect:
    """Something that could be wrong with a port, in its author's terms.

    Attributes:
        name: of the catalogue; of a pair both, joined by " + ".
        component: the part of a port to look at.
        cause: what its author wrote.
        fix: what to write instead.
        explained: how many of the judged tokens it explains.
        layer: the only block that is wrong, or None.
        gain: its log-likelihood minus that of a right program of whatever precision fits best, in nats.
        explains_all: whether it explains everything that was judged.
    """

    name: str
    component: str
    cause: str
    fix: str
    explained: int = 0
    layer: int | None = None
    gain: float = 0.0
    explains_all: bool = False


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The likely bug of one implementation, from what it did on one model, or on several put together.

    The world of suspects is closed.

    Attributes:
        route: how it was found: "text" (the dictionary), "probes" (self-naming checkpoints) or "tracer".
        suspects: those of the class that is named, which these observations cannot tell apart; empty unless NAMED.
        explained, total: how many tokens (probes, values) the class explains, of how many that were judged.
        right: how many of them a right program explains.
        runner_up: the best explanation outside of the class, whatever it is worth.
        gap: log-likelihood of the class minus that of the runner-up, in nats.
        gain: log-likelihood of the best explanation minus that of a right program of whatever precision fits best.
        n_tried: faults that were tried.
        precision: the lower precision whose noise it takes, "" for none.
        reason: what a reader must know besides.
        weighed: the likeliest suspects, named or not, those that explain everything first, by which diagnoses of
            several models are put together.
        models: on which this was found, where it was found on any.
    """

    route: str
    conclusion: Conclusion
    suspects: tuple[Suspect, ...] = ()
    explained: int = 0
    total: int = 0
    right: int = 0
    runner_up: Suspect | None = None
    gap: float = 0.0
    gain: float = 0.0
    n_tried: int = 0
    precision: str = ""
    reason: str = ""
    weighed: tuple[Suspect, ...] = ()
    models: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The class: the names of faults that explain the observations equally."""
        return tuple(dict.fromkeys(suspect.name for suspect in self.suspects))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What we say of one case on one implementation.

    Attributes:
        case, impl, model: names.
        kind: the verdict on the case as a whole.
        reason: one line in plain words; empty only for EXACT.
        tokenizer, forward: the verdicts on the two halves, where they could be told apart.
        n_judged: generated tokens judged.
        divergence: where it went wrong, for MISMATCH.
        certificates: one for each place that differs and is a tie.
        conventions: how the program prints, stops and counts, where that is not llama2.c's way.
        reproduce: a command line that shows it again.
        wall_s, peak_rss_bytes, reported_tps: of the run that was judged; of several runs, or questions to a process,
            wall_s is the sum.
        levels: what each level at which it was judged says, where that is not TEXT alone.
        diagnosis: the likely bug, by all cases of this model together; None where none was sought.
    """

    case: str
    impl: str
    model: str
    kind: Kind
    reason: str = ""
    tokenizer: Kind | None = None
    forward: Kind | None = None
    n_judged: int = 0
    divergence: Divergence | None = None
    certificates: tuple[Certificate, ...] = ()
    conventions: tuple[str, ...] = ()
    reproduce: str = ""
    wall_s: float = 0.0
    peak_rss_bytes: int = 0
    reported_tps: float | None = None
    suite: str = ""
    tags: tuple[str, ...] = field(default=())
    levels: tuple[tuple[str, Kind], ...] = ()
    diagnosis: Diagnosis | None = None


@dataclass(frozen=True, slots=True)
class WrongOperation:
    """An operation whose output is wrong while its inputs are right.

    Attributes:
        name: the point of the trace where it shows.
        layer: the block, -1 outside.
        position: the first token where it is wrong.
        since: the last points that are recorded before it; what computes `name` from them is wrong.
        distance: the largest distance from float64 in that row.
        floor: the noise floor of that row.
        index: of the worst element.
        expected, actual: its value.
    """

    name: str
    layer: int
    position: int
    since: tuple[str, ...]
    distance: float
    floor: float
    index: int
    expected: float
    actual: float

    @property
    def ratio(self) -> float:
        return self.distance / self.floor if self.floor else float("inf")


@dataclass(frozen=True, slots=True)
class Trace:
    """What a trace of one run says.

    Attributes:
        impl, model: names.
        n_tokens: positions that were fed.
        n_judged: values that were judged, each a row of one point, layer and position.
        wrong: every wrong operation by its first row, in the order of computation; empty for a right program.
        heat: point, layer and the largest distance over floor at any position, in the order of computation.
        limit: that ratio from which an operation is wrong.
        explanations: name, cause and fix of each fault of the catalogue that gives all that was recorded.
    """

    impl: str
    model: str
    n_tokens: int
    n_judged: int
    wrong: tuple[WrongOperation, ...]
    heat: tuple[tuple[str, int, float], ...]
    limit: float
    explanations: tuple[tuple[str, str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class AngleReading:
    """The angle of the hidden state behind a sub-block, in one plane, as a program's tokens tell it.

    Attributes:
        layer, block: the sub-block; layer -1 is outside of the blocks.
        run: which of the tracer's runs it was.
        position: the first position that was read; the others follow.
        expected, observed: radians, one for each position; NaN where the program said no angle.
        floor: how far an honest program may be off, radians.
    """

    layer: int
    block: str
    run: str
    position: int
    expected: tuple[float, ...]
    observed: tuple[float, ...]
    floor: float

    @property
    def ratio(self) -> float:
        """The largest distance in floors; infinite where no angle was said."""
        return self.distance / self.floor

    @property
    def distance(self) -> float:
        """The largest distance of an observed angle from the expected one, radians."""
        return max(self._distances)

    @property
    def worst(self) -> int:
        """Index of the largest distance."""
        return self._distances.index(self.distance)

    @property
    def _distances(self) -> list[float]:
        pairs = zip(self.expected, self.observed, strict=True)
        return [float("inf") if b != b else abs(a - b) for a, b in pairs]


@dataclass(frozen=True, slots=True)
class Cut:
    """One step of the search for what still diverges: something switched off in the weights.

    Attributes:
        what: what is off, or alike, in words that follow "with".
        diverges: whether the program is still wrong.
        ratio: its largest distance, in floors.
    """

    what: str
    diverges: bool
    ratio: float


@dataclass(frozen=True, slots=True)
class BlackBoxTrace:
    """What the text of a program says about where it goes wrong.

    Attributes:
        impl, model: names.
        reason: why this tracer answers.
        readings: every sub-block in the order of computation, by run.
        limit: the ratio from which a reading is wrong.
        first: layer and sub-block that are wrong first; None for a right program.
        cuts: how that was narrowed down.
        conclusion: what follows, as a sentence; empty for a right program.
        diagnosis: the fault of the catalogue that gives all these angles, if one does.
        n_runs: how often the program was run.
    """

    impl: str
    model: str
    reason: str
    readings: tuple[AngleReading, ...]
    limit: float
    first: tuple[int, str] | None
    cuts: tuple[Cut, ...]
    conclusion: str
    diagnosis: Diagnosis
    n_runs: int

    @property
    def is_wrong(self) -> bool:
        """Whether a sub-block is wrong, or the precision is lower than the declared one."""
        return self.first is not None or self.diagnosis.conclusion is Conclusion.LOWER_PRECISION


def count(verdicts: Sequence[Verdict]) -> dict[Kind, int]:
    """Count verdicts by kind, in the order of `Kind`, leaving out kinds that do not occur."""
    return {kind: n for kind in Kind if (n := sum(v.kind is kind for v in verdicts))}
