"""Whether a checkpoint holds what its model needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from caption_cache.errors import InputError


def refuse_incomplete(model: str, about: Mapping[str, Any]) -> None:
    """Check that a checkpoint held every weight of its model.

    Args:
        model: Hub name or folder.
        about: What ``from_pretrained`` gives with ``output_loading_info``.

    Raises:
        InputError: It did not.
    """
    if missing := sorted(about["missing_keys"]):
        raise InputError(f"{model} lacks {len(missing)} of the model's weights, such as "
                         f"{missing[0]}; random numbers would stand in for them, so give a "
                         "complete checkpoint.")
