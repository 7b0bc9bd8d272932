"""Single-dash long options before the model, which comes last."""

import sys

import tiny_llama

values = {"-tokenizer": "tokenizer.bin", "-temperature": "0.9", "-topp": "0.9", "-steps": "256", "-prompt": ""}
words = sys.argv[1:]
while words and words[0].startswith("-"):
    name, *words = words
    if name not in values or not words:
        print(f"flag provided but not defined: {name}\nUsage of go_style:", file=sys.stderr)
        for option, default in values.items():
            kind = "string" if default in ("", "tokenizer.bin") else "float"
            print(f"  {option} {kind}\n    \t(default {default!r})", file=sys.stderr)
        sys.exit(2)
    values[name], *words = words
if len(words) != 1:
    tiny_llama.die("exactly one checkpoint is wanted")
steps, temperature = int(values["-steps"]), float(values["-temperature"])
tiny_llama.tell(words[0], values["-tokenizer"], values["-prompt"], steps, temperature)
