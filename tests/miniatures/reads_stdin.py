"""Asks again at the end of its input, for ever."""

import sys
import time

while True:
    if not sys.stdin.readline():
        time.sleep(0.01)
