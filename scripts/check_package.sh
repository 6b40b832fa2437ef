#!/usr/bin/env bash
# Build the sdist, from it the wheel, install that into an empty environment, and use it from there.
#   bash scripts/check_package.sh       PYTHON: an interpreter with the dependencies (.venv's)
# Nothing is fetched: the new environment borrows the dependencies of PYTHON, but not this package.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(realpath -s "${PYTHON:-.venv/bin/python}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PYTHONDONTWRITEBYTECODE=1 PYTHONNOUSERSITE=1
unset PYTHONPATH

# A copy, so that the build leaves nothing in the repository.
mkdir "$work/source" "$work/dist" "$work/elsewhere"
cp -r pyproject.toml README.md CHANGELOG.md LICENSE kgc_seq2seq caption_cache "$work/source"
(cd "$work/source" && "$python" -c "
import sys
from setuptools import build_meta
build_meta.build_sdist(sys.argv[1])" "$work/dist" >/dev/null 2>&1)
tar -xzf "$work"/dist/*.tar.gz -C "$work/elsewhere"
"$python" -m pip wheel --quiet --no-deps --no-index --no-build-isolation \
    --wheel-dir "$work/dist" "$work"/elsewhere/kgc_seq2seq-*

"$python" -m venv --without-pip "$work/venv"
"$python" -m pip --quiet --python "$work/venv/bin/python" install --no-deps --no-index \
    "$work"/dist/*.whl
purelib='import sysconfig; print(sysconfig.get_path("purelib"))'
"$python" -c "$purelib" > "$("$work/venv/bin/python" -c "$purelib")/borrowed.pth"

cd "$work/elsewhere"
rm -rf kgc_seq2seq-*
export PATH="$work/venv/bin:$PATH"
python -c "
import sys
from pathlib import Path
import caption_cache, kgc_seq2seq
for package in (caption_cache, kgc_seq2seq):
    home = Path(package.__file__).parent
    assert home.is_relative_to(sys.prefix), home
    assert (home / 'py.typed').is_file(), home
"
kgc --help > /dev/null
# What the package is for, shortened: its data files, captions, training, search and report.
kgc demo --steps 20 --out demo
test -s demo/report.html
caption-cache verify demo/dataset
kgc describe demo/dataset
kgc doctor
python -m kgc_seq2seq.train_scorer --dataset demo/dataset --out scorer --scorer distmult \
    --model.dim 4 --training.steps 2 --training.validate_every 2
echo "$(basename "$work"/dist/*.tar.gz) and $(basename "$work"/dist/*.whl) work."
