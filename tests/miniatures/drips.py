"""Prints a piece every now and then, for ever: it is never silent for long, and never done."""

import time

while True:
    print("and ", end="", flush=True)
    time.sleep(0.05)
