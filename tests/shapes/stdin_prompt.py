"""MODEL TOKENIZER; the prompt on stdin; greedy, as many steps as there are; only what it adds is printed."""

import sys

import tiny_llama

if len(sys.argv) != 3:
    tiny_llama.die("usage: stdin_prompt MODEL TOKENIZER < prompt")
prompt = sys.stdin.readline().rstrip("\n")
told = []
text = tiny_llama.tell(*sys.argv[1:], prompt, 40, 0.0, write=told.append, speed=False)
print(text.decode("utf-8", "replace")[len(prompt) :])
