"""Never says anything useful."""

import sys

sys.exit("configuration error 17")
