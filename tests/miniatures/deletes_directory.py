"""Deletes the directory that it was started in, and crashes there."""

import os
import shutil
import sys

shutil.rmtree(os.getcwd())
print("gone", flush=True)
sys.exit(4)
