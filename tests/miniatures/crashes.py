"""Ends by a signal in the middle of its answer."""

import os
import signal

print("Once upon", flush=True)
os.kill(os.getpid(), signal.SIGSEGV)
