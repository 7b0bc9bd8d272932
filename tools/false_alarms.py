"""Look for false alarms: honest programs, judged by the code that judges everybody.

    python tools/false_alarms.py --out false-alarms.jsonl

The programs and the cases are those of `harness selftest` (`harness/conformance/selftest/honest.py` and `alarms.py`),
which adds them up; here a line is written for each (model, batch of cases, program), and started again with the same
file it goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

from harness.conformance.selftest.alarms import BATCH, FLOAT32, INT8, Batch, Judged, available, cases, judged
from harness.conformance.selftest.honest import programs
from harness.rates import upper_limit
from harness.results import Kind


def row_of(found: Judged) -> dict[str, Any]:
    return {
        "model": found.batch.model,
        "batch": found.batch.number,
        "build": found.program,
        "cases": found.n_cases,
        "tokens": found.n_tokens,
        "kinds": found.kinds,
        "ties": found.n_ties,
        "wrong": found.alarms,
    }


def render(rows: list[dict[str, Any]]) -> str:
    """Two tables, by build and by model."""
    kinds = [str(k) for k in Kind if any(str(k) in row["kinds"] for row in rows)]
    lines = []
    for title, models in (("float32 models", FLOAT32), ("int8 models", INT8)):
        here = [row for row in rows if row["model"] in models]
        if not here:
            continue
        for key in ("build", "model"):
            lines += [f"| {title}, by {key} | cases | tokens judged | {' | '.join(kinds)} | tied tokens |"]
            lines += ["| --- |" + " ---: |" * (len(kinds) + 3)]
            for name in dict.fromkeys(row[key] for row in here):
                some = [row for row in here if row[key] == name]
                counts = [sum(row["kinds"].get(k, 0) for row in some) for k in kinds]
                cells = [sum(row["cases"] for row in some), sum(row["tokens"] for row in some), *counts]
                cells.append(sum(row["ties"] for row in some))
                lines.append(f"| {name} | " + " | ".join(f"{c:,}" for c in cells) + " |")
            lines.append("")
        n = sum(row["tokens"] for row in here)
        n_wrong = sum(len(row["wrong"]) for row in here)
        lines.append(f"{n:,} tokens, {n_wrong} false alarms.")
        lines.append(f"Upper limit (95 %): {upper_limit(n_wrong, n):.1e} per token.")
        lines.append("")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("false-alarms.jsonl"))
    parser.add_argument("--batches", type=int, default=5, help=f"batches of {BATCH} cases for each float32 model")
    parser.add_argument("--int8-batches", type=int, default=2, help="the same for each int8 model")
    parser.add_argument("--models", help="comma list; default: all that are here")
    options = parser.parse_args()
    rows = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    done = {(row["model"], row["batch"], row["build"]) for row in rows}
    wanted = options.models.split(",") if options.models else [*FLOAT32, *INT8]
    here = available(wanted)
    for absent in set(wanted) - set(here):
        print(f"{absent}: skipped, its files are not here", file=sys.stderr)
    for model in here:
        for number in range(options.int8_batches if model in INT8 else options.batches):
            todo = [one for one in programs() if (model, number, one.name) not in done]
            if not todo:
                continue
            start = time.perf_counter()
            batch = Batch(model, number)
            made = cases(batch)
            for honest in todo:
                found = judged(made, batch, honest)
                if found.obstacle:
                    print(f"{honest.name}: skipped, {found.obstacle}", file=sys.stderr)
                    continue
                rows.append(row_of(found))
                with options.out.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
                for wrong in found.alarms:
                    print(f"{model}, {honest.name}: {wrong}", file=sys.stderr)
            spent = math.ceil(time.perf_counter() - start)
            print(f"{model}: batch {number}, {spent} s; {sum(r['tokens'] for r in rows):,} tokens", file=sys.stderr)
    print(render(rows))
    return 1 if any(row["wrong"] for row in rows) or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
