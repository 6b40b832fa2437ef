"""Paints texts with any text-to-image pipeline of diffusers: SDXL, Stable Diffusion, FLUX, …"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from caption_cache.captioners.checkpoints import own_device
from caption_cache.errors import InputError

SDXL = "stabilityai/stable-diffusion-xl-base-1.0"


@dataclass(frozen=True)
class PaintConfig:
    """Which pipeline paints the images, and how; what is None is left to the pipeline."""

    model: str = SDXL
    """Hub name or folder of a text-to-image pipeline."""
    revision: str = "main"
    """Branch, tag or commit on the hub."""
    prompt: str = "{name}. {description}"
    """What is to be painted; most models read the first 77 tokens."""
    steps: int | None = None
    """Steps of denoising."""
    size: int | None = None
    """Pixels a side, a multiple of 8."""
    guidance: float | None = None
    """How closely the prompt is followed."""
    scheduler: Literal["ddim", "own"] = "ddim"
    """What denoises: DDIM without noise (Song et al. 2021), as in LBMKGC, or what comes with the
    model."""
    seed: int = 0
    """The noise of an entity follows from it and the entity's id."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of weights; auto: float32 on a CPU, else float16."""
    device: str | None = None
    """Where it runs; None: the accelerator, where there is one."""
    batch_size: int = 4
    """Images at once."""

    def __post_init__(self) -> None:
        for key, value in (("steps", self.steps), ("batch-size", self.batch_size)):
            if value is not None and value < 1:
                raise InputError(f"--{key} is {value}; give 1 or more.")
        if self.size is not None and (self.size < 8 or self.size % 8):
            raise InputError(f"--size is {self.size}; give a multiple of 8.")
        if self.guidance is not None and self.guidance < 0:
            raise InputError(f"--guidance is {self.guidance}; give 0 or more.")
        try:
            fits = self.prompt.format(name="1", description="2") != self.prompt.format(
                name="2", description="1")
        except (LookupError, ValueError, AttributeError):
            fits = False
        if not fits or not self.prompt.isprintable():
            raise InputError(f"--prompt is {self.prompt!r}; give one line with {{name}} or "
                             "{description} in it, and no other braces.")

    @property
    def own_device(self) -> str:
        """Where it really runs."""
        return self.device or own_device()

    @property
    def own_dtype(self) -> str:
        """What weights really are."""
        if self.dtype != "auto":
            return self.dtype
        return "float32" if self.own_device == "cpu" else "float16"

    @property
    def settings(self) -> str:
        """What determines the pixels beside model, prompt and seed, as JSON."""
        return json.dumps({
            "revision": self.revision, "steps": self.steps, "size": self.size,
            "guidance": self.guidance, "scheduler": self.scheduler, "dtype": self.own_dtype})

    def words(self, name: str, description: str) -> str:
        """The prompt of an entity; its name where nothing else is left."""
        words = " ".join(self.prompt.format(name=name, description=description).split())
        return words.strip(" .,:;") or name

    def noise(self, entity: str) -> torch.Generator:
        """The noise of an entity, drawn on the CPU whatever the device."""
        digest = hashlib.sha256(f"{self.seed}\n{entity}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") % 2**63)


class Painter:
    """A pipeline, loaded."""

    def __init__(self, config: PaintConfig) -> None:
        """Load it.

        Raises:
            InputError: diffusers is not installed, or the pipeline cannot be loaded.
        """
        try:
            from diffusers import AutoPipelineForText2Image, DDIMScheduler
            from diffusers.utils import logging
        except ImportError:
            raise InputError("Painting images needs diffusers; install it with pip install "
                             "'kgc-seq2seq[generate-images]'.") from None
        logging.set_verbosity_error()  # a line about every long prompt would bury the bar
        logging.disable_progress_bar()
        self.config = config
        try:
            device = torch.device(config.own_device)  # before gigabytes are loaded
            # Anything but safetensors would have to be unpickled.
            pipeline: Any = AutoPipelineForText2Image.from_pretrained(
                config.model, revision=config.revision, use_safetensors=True,
                dtype=getattr(torch, config.own_dtype))
            pipeline.to(device)
        except Exception as error:  # whatever is wrong with files, names, network or device
            why = " ".join(str(error).split())[:300].rstrip(".")
            raise InputError(f"{config.model} cannot be loaded as a text-to-image pipeline on "
                             f"{config.own_device} ({why}); give the folder or the hub name of "
                             "one, and mend what is said.") from error
        own = pipeline.scheduler
        if config.scheduler == "ddim":
            if not isinstance(own, DDIMScheduler) and DDIMScheduler not in own.compatibles:
                raise InputError(f"{config.model} is denoised by {type(own).__name__}, which DDIM "
                                 "cannot stand for; give --scheduler own.")
            # Latents lie outside of -1 … 1.
            pipeline.scheduler = DDIMScheduler.from_config(own.config, clip_sample=False)
        pipeline.set_progress_bar_config(disable=True)
        self._pipeline = pipeline

    def paint(
        self, prompts: Sequence[str], noise: Sequence[torch.Generator]
    ) -> list[Image.Image | None]:
        """Paint some prompts.

        Returns:
            Images, mode RGB; None where the pipeline's own filter kept one back.

        Raises:
            InputError: The memory is too small, or the pixels are not finite.
        """
        config = self.config
        given = {"num_inference_steps": config.steps, "guidance_scale": config.guidance,
                 "height": config.size, "width": config.size}
        try:
            found = self._pipeline(
                prompt=list(prompts), generator=list(noise), output_type="np",
                **{key: value for key, value in given.items() if value is not None})
        except torch.OutOfMemoryError:
            raise InputError(f"{len(prompts)} images at once do not fit into the memory of "
                             f"{config.own_device}; give a smaller --batch-size or --size. What "
                             "is finished is kept.") from None
        pixels = np.asarray(found.images, np.float32)
        if not np.isfinite(pixels).all():
            raise InputError(f"{config.model} gives pixels that are not numbers in "
                             f"{config.own_dtype}; give --dtype float32 or bfloat16.")
        hidden = getattr(found, "nsfw_content_detected", None) or [False] * len(pixels)
        return [None if kept_back else Image.fromarray(np.round(image * 255).astype(np.uint8))
                for image, kept_back in zip(pixels, hidden, strict=True)]
