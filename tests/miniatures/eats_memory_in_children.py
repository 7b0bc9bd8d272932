"""Has children that each hold a moderate amount of memory: only their sum is too much."""

import os
import time

for _ in range(8):
    if os.fork() == 0:
        held = bytearray(40 << 20)
        time.sleep(1000)
time.sleep(1000)
