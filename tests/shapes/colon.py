"""-m:VALUE."""

import sys

import tiny_llama

values = {"m": "model.bin", "k": "tokenizer.bin", "t": "1.0", "n": "256", "q": ""}
for word in sys.argv[1:]:
    name, colon, value = word[1:].partition(":")
    if not word.startswith("-") or not colon or name not in values:
        tiny_llama.die("usage: colon [-m:<model>] [-k:<tokenizer>] [-t:<temperature>] [-n:<steps>] [-q:<prompt>]")
    values[name] = value
tiny_llama.tell(values["m"], values["k"], values["q"], int(values["n"]), float(values["t"]))
