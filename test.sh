#!/usr/bin/env bash
# Set up a virtual environment if need be, and run the tests, then the golden cases on our own implementations.
# With arguments, run pytest with those arguments instead: ./test.sh -k runfile
set -euo pipefail
cd "$(dirname "$0")"

python=.venv/bin/python
if [ ! -x "$python" ]; then
    "${PYTHON:-python3}" -c 'import sys; sys.exit("Python 3.11 or later is needed, this is %d.%d; set PYTHON to another" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
    "${PYTHON:-python3}" -m venv .venv
fi

stamp=.venv/installed-from
wanted=$("$python" -c 'import hashlib, pathlib; print(hashlib.sha256(pathlib.Path("pyproject.toml").read_bytes()).hexdigest())')
if [ "$(cat "$stamp" 2>/dev/null || true)" != "$wanted" ]; then
    "$python" -m pip install --quiet --disable-pip-version-check -e '.[dev]'
    echo "$wanted" > "$stamp"
fi

# Where Python is told to write no bytecode, each of the thousands of starts of the tests would compile what it imports.
"$python" -m compileall -q harness impls

if [ $# -gt 0 ]; then
    exec "$python" -m pytest "$@"
fi
# A process for each core; tests of one file share one, because they share what they build, and so do the cases of
# one implementation and model, because they are judged together.
"$python" -m pytest tests -n logical --dist loadfile
"$python" -m pytest golden -n logical
