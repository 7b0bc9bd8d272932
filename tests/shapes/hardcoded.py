"""Fixed file names, greedy, no arguments at all."""

import tiny_llama

tiny_llama.tell("stories15M.bin", "tokenizer.bin", "", 64, 0.0)
