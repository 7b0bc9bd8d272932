"""MODEL TEMPERATURE STEPS, and no way to give a prompt."""

import sys

import tiny_llama

words = sys.argv[1:]
if not 1 <= len(words) <= 3:
    tiny_llama.die("Usage: no_prompt.py <checkpoint_file> [temperature] [steps]")
model, temperature, steps = (*words, *("", "0.9", "256")[len(words) :])
try:
    numbers = float(temperature), int(steps)
except ValueError:
    tiny_llama.die("not a number")
tiny_llama.tell(model, "tokenizer.bin", "", numbers[1], numbers[0])
