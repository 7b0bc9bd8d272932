"""Never stops printing."""

import sys

line = b"and then the end. " * 512
while True:
    sys.stdout.buffer.write(line)
