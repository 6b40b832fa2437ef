"""Runs that lie on the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import snapshot_download

from caption_cache.errors import InputError, first_line

KEPT = ("*.json", "*.jsonl", "*.md", "*.model", "*.parquet", "*.safetensors", "*.tsv", "*.yaml")
"""What a run on the hub is made of; nothing else is downloaded, and none of it is unpickled."""


def fetch_run(run: str | Path, revision: str | None = None) -> Path:
    """The folder of a run, downloaded unless it is a folder already.

    Args:
        run: A folder, or else a name on the hub, such as ``user/name``.
        revision: On the hub: a branch, tag or commit.

    Raises:
        InputError: There is no such folder, and nothing of that name can be downloaded.
    """
    folder = Path(run)
    if folder.exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", str(run)):
        return folder
    try:
        return Path(snapshot_download(str(run), revision=revision, allow_patterns=list(KEPT)))
    except Exception as error:  # of the hub, of HTTP, of names, of the disk
        raise InputError(f"{run} is no folder, and the hub gives no run of that name "
                         f"({first_line(error)}); give the folder of a run or user/name.") from None


def shared_name(model: str) -> str:
    """What others may read of where a model came from: a hub's name, or ``./`` that of a folder."""
    if re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", model) and not Path(model).is_dir():
        return model
    return f"./{Path(model).resolve().name}"
