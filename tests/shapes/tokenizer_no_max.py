"""Takes llama2.c's flags; a tokenizer.bin without its first number."""

import tiny_llama

tiny_llama.flags(tiny_llama.USAGE, layout="no-max")
