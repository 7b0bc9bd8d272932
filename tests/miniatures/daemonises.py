"""Answers, while a process of a session of its own, orphaned by a double fork, stays behind with clean hands."""

import os
import time

if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for fd in range(3):
            os.close(fd)
        time.sleep(1000)
    os._exit(0)
os.wait()
print("Once upon a time")
