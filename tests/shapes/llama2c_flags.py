"""Takes llama2.c's flags and nothing else."""

import tiny_llama

tiny_llama.flags(tiny_llama.USAGE)
