#!/usr/bin/env bash
# Make the environment; then ruff, mypy and the whole suite, two processes side by side.
#   bash scripts/test.sh [OPTIONS OF pytest]
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh
.venv/bin/ruff check .
.venv/bin/mypy
exec .venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
