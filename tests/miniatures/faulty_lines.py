"""A program of the line protocol with the fault of the catalogue that FAULT names, or none."""

import os
import sys

from harness.diagnosis.faulty import main

if __name__ == "__main__":
    sys.exit(main([os.environ.get("FAULT", "").encode() or b"none", b"--lines"]))
