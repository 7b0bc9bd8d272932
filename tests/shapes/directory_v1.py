"""DIRECTORY --long_name value; version 1 only; a usage text; another way of counting steps."""

import os
import sys

import tiny_llama

USAGE = """\
Usage: generator <model_path> [options]

Options:
  --temperature     <float>  = 1.0
  --top_p           <float>  = 0.9
  --random_seed     <int>    = <milliseconds since unix epoch>
  --sequence_length <int>    = <max sequence length of model>
  --prompt          <string> = ""
  --worker_count    <int>    = <number of CPUs>"""
values = {
    "--temperature": "1.0", "--top_p": "0.9", "--random_seed": "0", "--sequence_length": "0", "--prompt": "",
    "--worker_count": "1",
}  # fmt: skip
words = sys.argv[1:]
if not words or len(words) % 2 == 0:
    tiny_llama.die(USAGE)
for name, value in zip(words[1::2], words[2::2], strict=True):
    if name not in values:
        tiny_llama.die(USAGE)
    values[name] = value
files = [os.path.join(words[0], name) for name in ("checkpoint_v1.bin", "tokenizer.bin")]
tiny_llama.tell(
    *files, values["--prompt"], int(values["--sequence_length"]), float(values["--temperature"]), version=1
)
