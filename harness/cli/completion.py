"""Shell completion without Typer: command names from the table, options read from the sources, files by the shell.

`harness --show-completion bash` prints a script for a start-up file. On the tab key it calls `harness` with
`_HARNESS_COMPLETE` set and the words so far as arguments, and gets one candidate a line. Importing a command to learn
its options would cost more than a key press should, so they are found in its source text instead.
"""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.cli import COMMANDS

__all__ = ["candidates", "main"]

_SCRIPTS = {
    "bash": """\
_harness_complete() {
    local IFS=$'\\n'
    COMPREPLY=($(_HARNESS_COMPLETE=1 "$1" "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o default -F _harness_complete harness
""",
    "zsh": """\
#compdef harness
_harness_complete() {
    local -a found
    found=(${(f)"$(_HARNESS_COMPLETE=1 ${words[1]} ${words[2,$CURRENT]} 2>/dev/null)"})
    if (( ${#found} )); then compadd -- $found; else _files; fi
}
compdef _harness_complete harness
""",
    "fish": """\
complete -c harness -a '(_HARNESS_COMPLETE=1 harness (commandline -opc)[2..] (commandline -ct) 2>/dev/null)'
""",
}


def main(args: Sequence[str]) -> int:
    """Print candidates for the words so far, or the script of a shell; return the exit status."""
    if "_HARNESS_COMPLETE" in os.environ:
        for candidate in candidates(sys.argv[1:]):
            print(candidate)
        return 0
    shell = args[0] if args else Path(os.environ.get("SHELL", "bash")).name
    if shell not in _SCRIPTS:
        print(f"harness: no completion for {shell}; there is one for {', '.join(_SCRIPTS)}", file=sys.stderr)
        return 2
    print(_SCRIPTS[shell], end="")
    return 0


def candidates(words: Sequence[str]) -> list[str]:
    """Return what the last word can become; nothing where it is for the shell to offer files.

    >>> candidates(["che"])
    ['check']
    >>> candidates(["check", "--ma"])
    ['--markdown']
    """
    *before, last = words if words else [""]
    command = next((word for word in before if not word.startswith("-")), None)
    if command is None:
        offered = ("--version", "--help", "--show-completion") if last.startswith("-") else COMMANDS
        return [word for word in offered if word.startswith(last)]
    if command in COMMANDS and last.startswith("-"):
        return sorted(word for word in {*_options(command), "--help"} if word.startswith(last))
    return []


def _options(command: str) -> Iterator[str]:
    """Find every string "--..." in a call of typer.Option in a command's source, or in the options it shares."""
    for name in (command, "options"):
        path = Path(__file__).with_name(f"{name}.py")
        if not path.is_file():
            continue
        for call in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "typer.Option":
                for word in call.args:
                    if isinstance(word, ast.Constant) and str(word.value).startswith("--"):
                        yield from str(word.value).split("/")
