"""Guide: what stands beside self-naming checkpoints, for a port's author who installs nothing."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from harness.diagnosis.fault import Fate
from harness.diagnosis.faults import by_name
from harness.diagnosis.self_naming.outcome import OK, PRECISIONS, faults_seen
from harness.diagnosis.self_naming.probe import Probe
from harness.diagnosis.self_naming.reading import unseen

__all__ = ["FOLDERS", "bugs", "readme"]

# Version of the checkpoint format -> the folder of its probes.
FOLDERS: Mapping[int, str] = {0: "v0", 1: "v1", 2: "int8"}
_READS = {
    0: "llama2.c's usual files (version 0), as `run` reads them",
    1: "version 1 files (a header of 256 bytes that begins with `ak42`)",
    2: "int8 files (version 2), as `runq` reads them",
}


def readme(sets: Mapping[int, Sequence[Probe]]) -> str:
    """Say what to run and how to read it.

    Args:
        sets: version -> its probes.
    """
    parts = [_HEAD]
    for version, probes in sets.items():
        folder = FOLDERS[version]
        parts.append(f"## Programs that read {_READS[version]}\n")
        parts.append("```sh")
        parts += [
            f"./run {folder}/{probe.model}.bin -z {folder}/{probe.model}_tok.bin -t 0 -n {probe.steps} "
            f"-i {shlex.quote(probe.prompt)}"
            for probe in probes
        ]
        parts.append("```\n")
        parts.append(f"[{folder}/bugs.md]({folder}/bugs.md) lists what each bug makes these probes say.\n")
        parts.append("| probe | what it is there for | tokens of the prompt | nearest two names | rounding |")
        parts.append("| --- | --- | ---: | ---: | ---: |")
        parts += [
            f"| {probe.name} | {probe.aim} | {probe.n_prompt} | {probe.separation:.4f} | {probe.noise['f32']:.7f} |"
            for probe in probes
        ]
        parts.append("")
        if hidden := [name for name in unseen(probes) if _is_of(version, name)]:
            parts.append(f"Not seen, or not told from a lower precision: {', '.join(hidden)}.\n")
    parts.append(_TAIL)
    return "\n".join(parts)


_HEAD = """# Self-naming checkpoints

Each of these models makes a program print the name of its own bug. They are ordinary llama2.c checkpoints and
tokenizers: nothing has to be installed. Run your program on each of them, at temperature 0, with exactly the prompt
given below. It prints the prompt and then a name in angle brackets, the first of which counts. A right program says
`<ok>` every time.

| what you see | what it means |
| --- | --- |
| `<ok>` every time | these probes find nothing wrong |
| `<ok>` in some, another name in others | the line of `bugs.md` with exactly these answers is the bug |
| one name every time | that bug |
| `<this/that>`, `<this/and-2-more>` | these bugs look the same in this probe; the other probes tell them apart |
| `<bf16>`, `<q8-weights>`, ... | weights or sums of a lower precision, which is no bug |
| `<not-a-number>` | a NaN or an infinity (or a first token that wins every tie) |
| no name in angle brackets | the prompt was encoded to more tokens than it should be; see `bugs.md` |
| answers that fit no line | a bug that is not listed, or two at once, or a lower precision |

One probe alone proves nothing: it always says the name that is nearest, with the same confidence however far that is.
Only a line of `bugs.md` that fits all of them is an answer.
"""

_TAIL = """## How it works

Under each bug that port authors are known to make, the hidden state at the end of the prompt is another one. These
states are the rows of the classifier, and the tokens that they stand for are called like the bugs; so the largest
logit belongs to the bug whose state your program has reached. Names are given only to states that lie farther apart
than rounding moves them: "nearest two names" and "rounding" in the table are such angles, in radians.

What does not move that state cannot be seen: sampling, the random generator, printing, when to stop.
"""


def _is_of(version: int, name: str) -> bool:
    """Whether a program that reads files of this version can have the fault."""
    if name[:3] in ("v0-", "v1-", "v2-"):
        return name[1] == str(version)
    return version == 2 or by_name(name).component != "int8"


def bugs(probes: Sequence[Probe]) -> str:
    """Say what each bug makes each probe say, and what to do about it."""
    listed = [
        fault
        for fault in faults_seen()
        if fault.fate is Fate.KILLABLE and any(probe.shows(fault.name) for probe in probes)
    ]
    head = ["bug", *(probe.name for probe in probes)]
    lines = ["# What each bug makes each probe say\n", _row(head), _row(["---"] * len(head))]
    for name in (OK, *(one for names in PRECISIONS.values() for one in names), *(fault.name for fault in listed)):
        if not any(probe.is_defined(name) for probe in probes):
            continue
        said = [probe.says.get(name, "anything") for probe in probes]
        cells = [f"`{one}`" if one.startswith("<") else one for one in said]
        lines.append(_row([f"**{name}**" if name == OK else name, *cells]))
    lines += ["", "# What was written, and what to write instead\n", _row(["bug", "written", "instead"])]
    lines.append(_row(["---"] * 3))
    for fault in map(by_name, (fault.name for fault in listed)):
        lines.append(_row([fault.name, fault.cause.replace("|", "\\|"), fault.fix.replace("|", "\\|")]))
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
