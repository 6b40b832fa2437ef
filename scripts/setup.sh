#!/usr/bin/env bash
# Make .venv with the tested set of packages. Quick when it is there already.
#   bash scripts/setup.sh [EXTRA,...]     extras besides "test" and "ui", such as bench
set -euo pipefail
cd "$(dirname "$0")/.."

extras="test,ui${1:+,$1}"
wanted=$(cat pyproject.toml constraints.txt | cksum)" $extras"
if [ -f .venv/made-from ] && [ "$(cat .venv/made-from)" = "$wanted" ]; then
    exit 0
fi

for python in python3 python3.14 python3.13 python3.12 python3.11 ""; do
    if [ -z "$python" ]; then
        echo "setup.sh: no Python of 3.11 or later is found; install one." >&2
        exit 2
    fi
    if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        break
    fi
done

echo "Making .venv (some minutes the first time) …" >&2
.venv/bin/python -m pip --version >/dev/null 2>&1 || "$python" -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check \
    --constraint constraints.txt --editable ".[$extras]"
echo "$wanted" > .venv/made-from
