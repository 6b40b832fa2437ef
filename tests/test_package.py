"""The package works where nothing of the repository is, and starts quickly."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT

from kgc_seq2seq import __version__

HEAVY = ("torch", "transformers", "numpy", "pyarrow", "matplotlib", "PIL", "jsonargparse")


def imported(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter has after running some code."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {code}; print(*{{m.split('.')[0] for m in "
         "sys.modules})"], capture_output=True, text=True, check=True, cwd=ROOT, timeout=120,
        env=os.environ | {"PYTHONPATH": str(ROOT)})
    return set(done.stdout.split())


@pytest.mark.skipif(importlib.util.find_spec("setuptools") is None
                    or importlib.util.find_spec("pip") is None,
                    reason="setuptools and pip build the package, and one is not installed")
def test_the_built_package_works_from_an_empty_environment() -> None:
    done = subprocess.run(
        ["bash", str(ROOT / "scripts" / "check_package.sh")], capture_output=True, text=True,
        timeout=600, env=os.environ | {"PYTHON": sys.executable})
    assert done.returncode == 0, done.stdout + done.stderr
    name = f"kgc_seq2seq-{__version__}"
    assert done.stdout.endswith(f"{name}.tar.gz and {name}-py3-none-any.whl work.\n")


def test_the_version_stands_in_one_place() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert re.search(r"^## (\S+)", changelog, re.MULTILINE)[1] == __version__
    assert __version__ not in (ROOT / "pyproject.toml").read_text("utf-8")


def test_help_waits_for_no_heavy_import() -> None:
    assert not imported("from kgc_seq2seq.cli import _parser; _parser()") & {*HEAVY}


def test_a_prediction_does_not_import_what_only_training_needs() -> None:
    found = imported("import kgc_seq2seq.completer")
    assert "torch" in found
    assert not found & {"peft", "matplotlib", "gradio", "datasets", "tensorboard"}
