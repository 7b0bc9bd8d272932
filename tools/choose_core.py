"""Print the golden runs in the order of their worth: what each adds, per second, to what those before it stop.

    python tools/choose_core.py [--suites core,stress] [--budget-s 5]

With a budget the cases that fit into it are said to be the quick set (*); the tag `quick` in a suite's plan and
goldens is put by hand. `harness selftest` writes the same table into reports/selftest.md.
"""

from __future__ import annotations

import argparse
import sys

from harness.conformance.selftest.adequacy import adequacy
from harness.conformance.selftest.kills import embedded_suites


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suites", help="comma list; default: those that need no download")
    parser.add_argument("--budget-s", type=float, help="seconds that the quick set may take for a program in C")
    options = parser.parse_args()
    suites = options.suites.split(",") if options.suites else list(embedded_suites())

    def progress(number: int, total: int, what: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\x1b[K{number} of {total}: {what}", end="", file=sys.stderr, flush=True)

    found = adequacy(suites, progress=progress)
    spent = 0.0
    print(f"{'case':44} {'quick':6} {'s':>7} {'stops':>6} {'new':>5} {'all':>5} {'pairs':>7} {'all':>7}")
    for row in found["order"]:
        spent += row["seconds"]
        fits = options.budget_s is not None and spent <= options.budget_s
        tag = ("*" if fits else "") + ("quick" if row["quick"] else "")
        print(
            f"{row['case']:44} {tag:6} {row['seconds']:7.3f} {row['kills']:6} {row['new_kills']:5} "
            f"{row['kills_in_all']:5} {row['new_pairs']:7} {row['pairs_in_all']:7}"
        )
    for case, reason in found["idle"].items():
        print(f"{case}: adds nothing: {reason}")
    print(f"{found['n_faults']} faults, {found['n_pairs']} pairs; stopped by none: {', '.join(found['unstopped'])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
