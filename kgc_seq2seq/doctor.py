"""What this machine has, what is missing for what, and how to mend it."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, entry_points, metadata, requires, version
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import Requirement

State = Literal["ok", "note", "missing"]

DISTRIBUTION = "kgc-seq2seq"
PURPOSES = {
    "bench": "benchmarks against other libraries",
    "generate-images": "images for entities that have none",
    "test": "the tests",
    "ui": "the explorer in the browser",
    "vectors": "vectors of texts by words or by a sentence encoder",
}
"""What the extras of the package are for."""
MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**34),
          "MALLOC_TOP_PAD_": str(2**28)}
"""Keeps glibc from giving the memory of every batch back to the system and asking for it anew:
of a training epoch against 15,000 entities on a CPU, 0.7 s instead of 8.1 s were the system's."""
_ENOUGH_MEMORY = 4 * 2**30
_ENOUGH_DISK = 2 * 2**30


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    """What."""
    state: State
    """``ok``; ``note``: it works, and could do better; ``missing``: something does not work."""
    found: str
    """What was found."""
    mend: str = ""
    """What to do about it, where there is something."""


def examine() -> list[Check]:
    """Look at everything; nothing is changed, and nothing is fetched."""
    return [_python(), *_packages(), _plugins(), _cores(), *_bf16(), _compiler(), _memory(),
            *_devices(), _malloc(), _disk()]


def facts() -> dict[str, Any]:
    """The versions and the machine, as JSON values for a bug report."""
    return {"python": platform.python_version(), "system": platform.platform(),
            "packages": {name: _version(name) for name in (
                DISTRIBUTION, *(need.name for need in _needs().get("", ())))}}


def _needs() -> dict[str, list[Requirement]]:
    """What the package requires, by extra; the empty one holds what is always required."""
    found: dict[str, list[Requirement]] = {}
    extras = metadata(DISTRIBUTION).get_all("Provides-Extra") or []
    for need in map(Requirement, requires(DISTRIBUTION) or []):
        extra = next((extra for extra in extras if need.marker is not None
                      and need.marker.evaluate({"extra": extra})
                      and not need.marker.evaluate({"extra": ""})), "")
        found.setdefault(extra, []).append(need)
    return found


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _python() -> Check:
    return Check("python", "ok", f"{platform.python_version()} on {platform.platform()}")


def _packages() -> list[Check]:
    needs = dict(sorted(_needs().items()))
    checks = [_package(need) for need in needs.pop("")]
    for extra, needed in needs.items():
        lacking = [str(check.name) for check in map(_package, needed) if check.state != "ok"]
        checks.append(Check(
            f"extra {extra}", "note" if lacking else "ok",
            f"for {PURPOSES.get(extra, extra)}"
            + (f"; not here: {', '.join(lacking)}" if lacking else ""),
            f"python -m pip install '{DISTRIBUTION}[{extra}]'" if lacking else ""))
    return checks


def _package(need: Requirement) -> Check:
    found = _version(need.name)
    if found is not None and need.specifier.contains(found, prereleases=True):
        return Check(need.name, "ok", found)
    mend = f"python -m pip install '{need.name}{need.specifier}'"
    if need.name == "sentencepiece":
        mend += ": without it no tokenizer is trained, nor read from a bare spiece.model"
    return Check(need.name, "missing", "not installed" if found is None else
                 f"{found} is not {need.specifier}", mend)


def _plugins() -> Check:
    named = {group.split(".")[-1]: sorted(entry.name for entry in entry_points(group=group))
             for group in ("kgc_seq2seq.scorers", "caption_cache.captioners")}
    lacking = [kind for kind, names in named.items() if not names]
    return Check("plugins", "missing" if lacking else "ok",
                 "; ".join(f"{kind}: {', '.join(names) or 'none'}"
                           for kind, names in named.items()),
                 "install this package again; its entry points are not registered"
                 if lacking else "")


def _cores() -> Check:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = os.environ.get("OMP_NUM_THREADS")
    return Check("cores", "ok", f"{usable} usable" + (
        f", OMP_NUM_THREADS is {threads}" if threads else ""))


def _bf16() -> list[Check]:
    words = _cpu_words()
    if not words:
        return []
    found = words & {"amx_bf16", "avx512_bf16", "bf16"}
    return [Check("bf16", "ok", ", ".join(sorted(found))) if found else Check(
        "bf16", "note", "this CPU only imitates it, several times slower than float32",
        "on the CPU, train with --training.mixed_precision no")]


def _cpu_words() -> set[str]:
    """What Linux says of the CPU, its instructions among it; nothing elsewhere."""
    file = Path("/proc/cpuinfo")
    return set(file.read_text("utf-8", "replace").split()) if file.is_file() else set()


def _compiler() -> Check:
    compiler = os.environ.get("CXX", "g++")  # which torch calls
    found = shutil.which(compiler)
    return Check("C++ compiler", "ok", found) if found else Check(
        "C++ compiler", "note", f"there is no {compiler}: --training.compile inductor needs it",
        "install one, or name it in CXX")


def _memory() -> Check:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return Check("memory", "ok", "unknown on this system")
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    few = total < _ENOUGH_MEMORY
    return Check("memory", "note" if few else "ok", _size(total),
                 "take small batches: --training.batch_size 16" if few else "")


def _devices() -> list[Check]:
    if importlib.util.find_spec("torch") is None:
        return []
    import torch

    if torch.cuda.is_available():
        return [Check(f"cuda:{index}", "ok", "{} with {}, bf16 {}".format(
            torch.cuda.get_device_name(index),
            _size(torch.cuda.get_device_properties(index).total_memory),
            "yes" if torch.cuda.is_bf16_supported() else "no"))
            for index in range(torch.cuda.device_count())]
    card = shutil.which("nvidia-smi") is not None
    built = torch.version.cuda
    if card and built is None:
        return [Check("cuda", "missing", "there is an NVIDIA driver, but this torch is built for "
                      "CPUs", "install a torch with CUDA: see pytorch.org/get-started")]
    if card:
        return [Check("cuda", "missing", f"torch is built for CUDA {built} and finds no device",
                      "compare with the driver's version: nvidia-smi")]
    return [Check("cuda", "note", "no GPU: small models train on CPUs, vision-language models and "
                  "T5-base hardly", "caption and fine-tune on a machine with a GPU; the files "
                  "travel")]


def _malloc() -> Check:
    if not _is_glibc():
        return Check("malloc", "ok", "not glibc's")
    unset = {name: value for name, value in MALLOC.items() if name not in os.environ}
    return Check("malloc", "ok", "glibc's, told to keep its memory") if not unset else Check(
        "malloc", "note", "glibc's gives the memory of every batch back, which costs training on "
        "CPUs much of its time", "export " + " ".join(
            f"{name}={value}" for name, value in MALLOC.items()))


def _is_glibc() -> bool:
    """Whether malloc is glibc's own, and not one that was preloaded."""
    preloaded = os.environ.get("LD_PRELOAD", "")
    return sys.platform == "linux" and hasattr(ctypes.CDLL(None), "gnu_get_libc_version") and not (
        any(name in preloaded for name in ("jemalloc", "tcmalloc", "mimalloc")))


def _disk() -> Check:
    places: Mapping[str, Path] = {"here": Path.cwd(), "for temporary files":
                                  Path(tempfile.gettempdir())}
    free = {name: shutil.disk_usage(place).free for name, place in places.items()}
    full = min(free.values()) < _ENOUGH_DISK
    return Check("disk", "note" if full else "ok", ", ".join(
        f"{_size(size)} free {name}" for name, size in free.items()),
        "checkpoints and captions need room: free some, or write to another disk" if full else "")


def _size(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
