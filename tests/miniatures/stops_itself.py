"""Stops itself, as ^Z would."""

import os
import signal

print("Once", flush=True)
os.kill(os.getpid(), signal.SIGSTOP)
