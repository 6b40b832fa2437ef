#!/usr/bin/env bash
# Make the environment; then caption, train, evaluate and query the nations graph.
#   bash scripts/demo.sh [OPTIONS OF kgc demo]
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh
exec .venv/bin/kgc demo "$@"
