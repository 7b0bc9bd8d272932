"""Prints half an answer and then waits for ever."""

import time

print("Once upon a", end="", flush=True)
time.sleep(1000)
