"""Vectors of images and texts by pretrained models, from a folder or a hub."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer, CLIPModel

from caption_cache.captioners.checkpoints import find_revision, own_device
from caption_cache.errors import InputError, first_line
from caption_cache.weights import refuse_incomplete


class _Clip:
    def __init__(self, source: str, device: str | None, batch_size: int) -> None:
        _refuse_device(device)
        try:
            config = AutoConfig.from_pretrained(source)
            if config.model_type != "clip":
                raise InputError(f"{source} is a {config.model_type}, where a CLIP is needed; "
                                 "give the folder or the hub name of one.")
            both: Any = CLIPModel.from_pretrained(source, dtype=torch.float32,
                                                  output_loading_info=True)
        except (OSError, ValueError, RuntimeError) as error:
            raise _cannot_load(source, error) from None
        self.model, about = both
        refuse_incomplete(source, about)
        self.device = device or own_device()
        self.model.to(self.device).eval()
        self.batch_size = batch_size
        self.identity: dict[str, Any] = {
            "encoder": "clip", "model": source, "revision": find_revision(source, config, "main")}


class ClipImages(_Clip):
    """The image tower of a CLIP (Radford et al. 2021)."""

    def __init__(self, source: str, device: str | None, batch_size: int) -> None:
        """Load a CLIP from a folder or a hub.

        Raises:
            InputError: It cannot be loaded.
        """
        super().__init__(source, device, batch_size)
        try:
            self.processor = AutoImageProcessor.from_pretrained(source, backend="pil")
        except (OSError, ValueError) as error:
            raise _cannot_load(source, error) from None
        self.identity["back_end"] = "pil"

    def encode(self, images: Sequence[Image.Image]) -> Tensor:
        """Vectors of length 1, float32 [n, d]."""
        inputs = self.processor(images=list(images), return_tensors="pt").to(self.device)
        with torch.inference_mode():
            return _unit(self.model.get_image_features(**inputs))


class ClipTexts(_Clip):
    """The text tower of a CLIP."""

    def __init__(self, source: str, device: str | None, batch_size: int) -> None:
        """Load a CLIP from a folder or a hub.

        Raises:
            InputError: It cannot be loaded.
        """
        super().__init__(source, device, batch_size)
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(source)
        except (OSError, ValueError) as error:
            raise _cannot_load(source, error) from None

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Vectors of length 1, float32 [n, d]; of long texts, the beginning is read."""
        inputs = self.tokenizer(
            list(texts), padding=True, truncation=True, return_tensors="pt",
            max_length=self.model.config.text_config.max_position_embeddings).to(self.device)
        with torch.inference_mode():
            return _unit(self.model.get_text_features(**inputs))


class Sentences:
    """Any model of sentence-transformers."""

    def __init__(self, source: str, device: str | None, batch_size: int) -> None:
        """Load a model from a folder or a hub.

        Raises:
            InputError: sentence-transformers is not installed, or the model cannot be loaded.
        """
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise InputError("--text-model needs sentence-transformers for all but CLIP; install "
                             "it with pip install 'kgc-seq2seq[vectors]'.") from None
        _refuse_device(device)
        try:
            self.model = SentenceTransformer(source, device=device)
        except (OSError, ValueError) as error:
            raise _cannot_load(source, error) from None
        self.batch_size = batch_size
        self.identity: dict[str, Any] = {"encoder": "sentence-transformers", "model": source,
                                         "revision": find_revision(source, None, "main")}

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Vectors of length 1, float32 [n, d]."""
        found: Tensor = self.model.encode(list(texts), convert_to_tensor=True,
                                          normalize_embeddings=True, show_progress_bar=False)
        return found.float().cpu()


def text_tower(source: str, device: str | None, batch_size: int) -> ClipTexts | Sentences:
    """The encoder of texts that fits a model: CLIP's tower, or else sentence-transformers.

    Raises:
        InputError: It cannot be loaded.
    """
    try:
        clip = AutoConfig.from_pretrained(source).model_type == "clip"
    except (OSError, ValueError):
        clip = False  # sentence-transformers knows models without such a file
    return (ClipTexts if clip else Sentences)(source, device, batch_size)


def _refuse_device(device: str | None) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {device} is not to be had here ({first_line(error)}); choose "
                         "another, such as cpu.") from None


def _unit(found: Any) -> Tensor:
    # Until transformers 5 the features themselves were returned.
    vectors: Tensor = getattr(found, "pooler_output", found)
    return functional.normalize(vectors.float(), dim=-1).cpu()


def _cannot_load(source: str, error: Exception) -> InputError:
    return InputError(f"No encoder can be loaded from {source} ({first_line(error)}); give the "
                      "folder or the hub name of a model.")
