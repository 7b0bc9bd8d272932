"""Takes llama2.c's flags; a tokenizer.bin without scores."""

import tiny_llama

tiny_llama.flags(tiny_llama.USAGE, layout="no-scores")
