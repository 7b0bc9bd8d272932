"""Write docs/faults.md: the catalogue, and the stress checkpoints with their certificates, measured now.

    python tools/faults_page.py [--write]

Without --write the page goes to stdout. The certificates of published models need HARNESS_MODELS.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from harness import models
from harness.diagnosis import CATALOGUE, COMPONENTS, Fate
from harness.diagnosis.certificates import Certificate, certified
from harness.diagnosis.shown import SHOWN_BY
from harness.diagnosis.stress import STRESSES
from harness.models import ModelNotFound

PAGE = Path(__file__).parent.parent / "docs" / "faults.md"
MODELS = ("gqa", "mha", "mqa", "gqa-q8", "stories260K")
CERTIFICATES = "## Certificates"
_HEAD = "| fault | symptom | cause | fix | fate |\n| --- | --- | --- | --- | --- |\n"

_INTRODUCTION = """# Faults

What ports of llama2.c get wrong: each fault with what is seen, what its author wrote, and what to write instead. The
page is made from `harness/diagnosis` by `python tools/faults_page.py --write`. Every fault is a right implementation
with one step replaced, so that the harness can run it:

```pycon
>>> from harness.diagnosis import Port, Request, by_name, faulted
>>> from harness.models import load, locate

>>> files = locate("gqa")
>>> gqa = load(files.checkpoint, files.tokenizer)
>>> def text(port):
...     return port.answer(gqa, Request(b"Once upon a time", steps=16)).text.decode()

>>> text(Port())
'Once upon a time, there was a little girl n\\n'
>>> text(faulted(by_name("heads-modulo")))
'Once upon a time, there was a time, key\\n'

```

A fault's *fate* is one of three. **Killable**: some probe shows it; the column says which (model, stress, request).
**Equivalent**: it computes the same function, for the reason given. **Below noise**: it computes another function,
but moves logits (or sums of probabilities) no further than honest programs do. `tests/diagnosis` tries all of that:
each killable fault gives another answer on its probe, and where an operation of the forward pass is wrong, logits
move by more than twice the [noise floor](noise-floor.md). Symptoms on stories260K are held against those that were
measured with another engine (`tests/diagnosis/matrix.py`), and those that `impls/c/faults.toml` lists
are compiled into impls/c, where each says what its port says.

To add one, add an entry to the list of its component, and the probe that shows it to `harness/diagnosis/shown.py`.
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write docs/faults.md")
    options = parser.parse_args()
    page = catalogue() + certificates(measured())
    if options.write:
        PAGE.write_text(page, "utf-8")
    else:
        sys.stdout.write(page)
    return 0


def catalogue() -> str:
    """The page up to the certificates."""
    fates = Counter(fault.fate for fault in CATALOGUE)
    counts = ", ".join(f"{fates[fate]} {fate.value}" for fate in Fate)
    parts = [_INTRODUCTION, f"\n{len(CATALOGUE)} faults: {counts}.\n"]
    for component in COMPONENTS:
        parts.append(f"\n## {component.capitalize()}\n\n{_HEAD}")
        for fault in CATALOGUE:
            if fault.component == component:
                fate = _probe(fault.name) if fault.fate is Fate.KILLABLE else f"{fault.fate.value}: {fault.argument}"
                cells = (f"`{fault.name}`", fault.symptom, fault.cause, fault.fix, fate)
                parts.append("| " + " | ".join(_escaped(cell) for cell in cells) + " |\n")
    parts.append("\n## Stress checkpoints\n\nMade from any small model (`harness/diagnosis/stress.py`).\n\n")
    parts.append("| stress | what its text shows |\n| --- | --- |\n")
    parts += [f"| {stress.name} | {_escaped(stress.shows)} |\n" for stress in STRESSES]
    return "".join(parts) + "\n"


def measured() -> list[tuple[str, Certificate]]:
    """Certificates of every model that is here."""
    found = []
    for name in MODELS:
        try:
            files = models.locate(name)
        except ModelNotFound as error:
            print(error, file=sys.stderr)
            continue
        found += [(name, one) for one in certified(models.load(files.checkpoint, files.tokenizer))]
    return found


def certificates(found: Iterable[tuple[str, Certificate]]) -> str:
    """The last part of the page."""
    lines = [
        CERTIFICATES,
        "",
        "For each stress the faults that it is meant for: the first wrong token, counted from the first that is",
        "printed, among the answers to its requests by the model as it is and under stress (- for none), and the",
        "largest shift of a logit under stress over the noise floor of its position (for int8, over the run's). Int8",
        "faults do nothing to a float32 model as it is.",
        "",
        "| model | stress | fault | first wrong token, as it is | under stress | shift over floor |",
        "| --- | --- | --- | ---: | ---: | ---: |",
    ]
    for model, one in found:
        shift = "not finite" if math.isinf(one.stressed) else f"{one.stressed:.1g}"
        firsts = (_first(one.plain_first), _first(one.stressed_first))
        lines.append(f"| {model} | {one.stress} | `{one.fault}` | {firsts[0]} | {firsts[1]} | {shift} |")
    return "\n".join(lines) + "\n"


def _first(token: int | None) -> str:
    return "-" if token is None else str(token)


def _probe(fault: str) -> str:
    model, stress, request = SHOWN_BY[fault]
    return f"{model}, {stress}: {request}" if stress != "plain" else f"{model}: {request}"


def _escaped(text: str) -> str:
    """A cell of a table; tags of the text are no tags of the page."""
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    sys.exit(main())
