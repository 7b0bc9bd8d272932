"""Prints bytes that are no UTF-8, on both streams."""

import sys

sys.stdout.buffer.write(b"Once \xff\xfe upon \xc3 a time\n")
sys.stderr.buffer.write(b"\xe2\x82 done\n")
