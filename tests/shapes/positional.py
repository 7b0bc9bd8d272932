"""MODEL TEMPERATURE STEPS PROMPT; tokenizer.bin in the working directory; says nothing about it."""

import sys

import tiny_llama

words = sys.argv[1:]
if not 1 <= len(words) <= 4:
    sys.exit(1)
model, temperature, steps, prompt = (*words, *("", "1.0", "256", "")[len(words) :])
try:
    numbers = float(temperature), int(steps)
except ValueError:
    tiny_llama.die("what is that?")
tiny_llama.tell(model, "tokenizer.bin", prompt, numbers[1], numbers[0])
