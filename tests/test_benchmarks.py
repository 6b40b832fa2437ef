"""What the benchmarks measure with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

PEAK = "import bench_common as b, sys; print(b.peak_bytes(), 'torch' in sys.modules)"
STARTED = ("import subprocess, sys; held = b'x' * 2**28; "
           "print(subprocess.check_output([sys.executable, '-c', sys.argv[1]], text=True))")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells the peak")
def test_a_peak_is_that_of_the_process_alone() -> None:
    done = subprocess.run([sys.executable, "-c", STARTED, PEAK], cwd=ROOT / "scripts", check=True,
                          capture_output=True, text=True)
    peak, torch = done.stdout.split()
    assert 2**20 < int(peak) < 2**27
    assert torch == "False"  # it would count, too


def test_orderings_of_a_graph_with_nothing_to_copy_are_refused(nations: Path) -> None:
    done = subprocess.run([sys.executable, "bench_orderings.py", "--quick", str(nations)],
                          cwd=ROOT / "scripts", capture_output=True, text=True)
    assert done.returncode == 1
    assert "there is nothing to copy" in done.stderr
    assert "Traceback" not in done.stderr
