"""The command line: one module for each command, imported only when that command is used.

`harness/cli/NAME.py` has a function `command` with a Typer signature. It parses, calls one library function,
renders, and returns the exit status. A new command is its module and its line here.
"""

from __future__ import annotations

__all__ = ["COMMANDS"]

# Name -> what it does, as `harness --help` says it.
COMMANDS = {
    "check": "Judge implementations on golden cases: right or wrong, where, and by how much.",
    "run": "Write a text with the reference engine.",
    "convert": "Write a model in another format, and check it by its tensors and logits.",
    "inspect": "Tell what a checkpoint is, what it costs to run, and what looks wrong with it.",
    "models": "List, fetch, find and make models.",
    "bench": "Measure speed beside what the machine can do at most.",
    "compare": "Say what changed between two run files: verdicts, or speeds.",
    "adopt": "Find how a program wants to be called, and write its manifest.",
    "smoke": "Try a new program of the line protocol with three requests, and show every byte.",
    "trace": "Name the first operation of a program whose output is wrong while its inputs are right.",
    "probe": "Make a program print the name of its own bug, by models that ask for it.",
    "tokenizer": "Put thousands of hard texts to a program's tokenizer, and say what it does wrong.",
    "fuzz": "Put thousands of generated models to programs, and shrink what they get wrong.",
    "shrink": "Turn a failure into the smallest model and request that still show it.",
    "precision": "Say what lower precisions cost a model: size, divergence, agreement, perplexity.",
    "selftest": "Put programs with known faults, and honest ones, to the gate, and say what it is worth.",
    "record": "Make or renew goldens, showing what would change.",
    "report": "Render run files as text, markdown, a page with plots, JSON, CSV, JUnit or a badge.",
}
