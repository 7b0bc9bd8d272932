"""Takes 8 MiB more, and touches it, again and again."""

import time

held = []
while True:
    held.append(bytearray(8 << 20))
    time.sleep(0.005)
