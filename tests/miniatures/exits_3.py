"""Says what is wrong and ends with exit code 3."""

import sys

sys.exit(print("cannot read the model", file=sys.stderr) or 3)
