"""Takes llama2.c's flags; as many KV heads as query heads, whatever the file says."""

import tiny_llama

tiny_llama.flags(tiny_llama.USAGE, has_gqa=False)
