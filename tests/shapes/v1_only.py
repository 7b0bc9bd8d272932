"""Takes llama2.c's flags; version 1 checkpoints only."""

import tiny_llama

tiny_llama.flags(tiny_llama.USAGE, version=1)
