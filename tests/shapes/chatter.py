"""No llama at all: repeats its arguments and ends well."""

import sys

print("Hello! You said:", *sys.argv[1:])
print("and that is very nice of you, thank you so much.")
