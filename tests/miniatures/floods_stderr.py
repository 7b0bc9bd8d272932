"""Writes 32 MiB to stderr before its answer: who does not drain stderr waits for ever."""

import sys

for _ in range(512):
    sys.stderr.buffer.write(b"warning: nothing is wrong\n" * 2521)
print("Once upon a time")
print("the last line", file=sys.stderr)
