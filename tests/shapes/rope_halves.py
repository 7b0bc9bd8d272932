"""Takes llama2.c's flags; a bug: rotates halves instead of pairs."""

import tiny_llama

tiny_llama.flags(tiny_llama.USAGE, halves=True)
