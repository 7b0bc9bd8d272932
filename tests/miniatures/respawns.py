"""Two hundred times: a process that starts its successor in a new session and ends, so that a list is soon stale."""

import os
import time

for _ in range(200):
    if os.fork():
        time.sleep(0.01)
        os._exit(0)
    os.setsid()
time.sleep(1000)
