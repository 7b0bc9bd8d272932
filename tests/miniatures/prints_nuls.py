"""Prints a NUL after each piece."""

import sys

sys.stdout.buffer.write(b"\0".join([b"Once", b" upon", b" a", b" time", b"\n"]))
