#!/usr/bin/env bash
# Compare with other people's implementations, in an environment of their own (.venv-oracles in the checkout).
# Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/../.."

python=.venv-oracles/bin/python
if [ ! -x "$python" ]; then
    "${PYTHON:-python3}" -m venv .venv-oracles
fi

stamp=.venv-oracles/installed-from
wanted=$(cat pyproject.toml tests/oracles/requirements.txt | cksum)
if [ "$(cat "$stamp" 2>/dev/null || true)" != "$wanted" ]; then
    "$python" -m pip install --quiet --disable-pip-version-check -e . -r tests/oracles/requirements.txt
    echo "$wanted" > "$stamp"
fi

exec "$python" -m pytest tests/oracles "$@"
