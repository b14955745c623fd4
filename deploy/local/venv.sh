#!/bin/sh
# Makes .venv with exactly what requirements.txt pins. Python's own venv module is all that it needs.
set -eu
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || {
    echo "Python 3.11 or newer is needed: install it, or name one with 'make PYTHON=...'" >&2
    exit 1
}
if ! "$python" -c 'import ensurepip' 2>/dev/null; then
    echo "installing python3-venv"
    { apt-get update -qq && apt-get install -qq -y --no-install-recommends python3-venv; } >/dev/null 2>&1 || {
        echo "Python's venv module is missing: apt-get install python3-venv" >&2
        exit 1
    }
fi
echo "installing the Python packages into .venv"
rm -f .venv/installed
"$python" -m venv .venv
.venv/bin/pip install --quiet --disable-pip-version-check --require-hashes -r deploy/local/pins/uv/requirements.txt
VIRTUAL_ENV=.venv .venv/bin/uv pip sync --quiet --require-hashes requirements.txt
VIRTUAL_ENV=.venv .venv/bin/uv pip install --quiet --no-deps --no-build-isolation --editable .
touch .venv/installed
