"""Starts fifty processes that wait, some of them in sessions of their own, and waits too."""

import os
import time

for n in range(50):
    if os.fork() == 0:
        if n % 3 == 0:
            os.setsid()
        time.sleep(1000)
time.sleep(1000)
