"""The command `harness`, also `python -m harness`: what must be quick, and what becomes of an error.

`--version` and shell completion are answered before anything large is imported. Exit statuses: 0 all good, 1 a case
failed or nothing green was checked, 2 the request was wrong (one line on stderr), 3 a bug of our own (with its
traceback), 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from harness import __version__
from harness.errors import HarnessError, ImplementationError

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status."""
    args = list(sys.argv[1:] if argv is None else argv)
    if args[:1] in (["--version"], ["-V"]):
        print(f"harness {__version__}")
        return 0
    if args[:1] == ["--show-completion"] or "_HARNESS_COMPLETE" in os.environ:
        from harness.cli import completion

        return completion.main(args[1:])
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # what a terminal cannot show is no reason to fail
    from harness.cli.app import run

    try:
        return run(args)
    except KeyboardInterrupt:
        return 130
    except ImplementationError as error:
        print(f"harness: {_one_line(error)}", file=sys.stderr)
        return 1
    except HarnessError as error:
        print(f"harness: {_one_line(error)}", file=sys.stderr)
        return 2
    except Exception:
        import traceback

        traceback.print_exc()
        print("harness: this is a bug of the harness itself; please report it with the lines above", file=sys.stderr)
        return 3


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


if __name__ == "__main__":
    sys.exit(main())
