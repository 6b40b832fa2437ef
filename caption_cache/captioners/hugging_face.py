"""Any image-text model of transformers: BLIP-2, InstructBLIP, LLaVA, Qwen-VL, …"""

from __future__ import annotations

import gc
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from PIL import Image, ImageOps

from caption_cache.captioners import Identity, InVain, Refusal, Request, YesNo
from caption_cache.captioners.checkpoints import (
    QUERY_MODELS,
    find_revision,
    load_config,
    load_model,
    load_processor,
)
from caption_cache.errors import InputError

R = TypeVar("R")

_FORMATS = {"blip-2": "Question: {prompt} Answer:", "instructblip": "{prompt}"}
_OTHER_FORMAT = "USER: {images}\n{prompt} ASSISTANT:"
# What each kind of model was trained on, for those without a chat template.
_LEAST_SIDE, _MOST_SIDE, _MOST_STRETCH = 32, 4096, 100
_HOPELESS = 3  # So many single requests in a row without memory for them are in vain.


@dataclass(frozen=True)
class TransformersOptions:
    """Which model writes the captions, and how."""

    model: str
    """Hub name or folder of an image-text model (BLIP-2, InstructBLIP, LLaVA, Qwen-VL, …)."""
    revision: str = "main"
    """Branch, tag or commit on the hub."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "bfloat16"
    """Data type of the weights; float16 makes captions depend on the batch, or not-a-number."""
    device_map: str | None = None
    """Spread the model as from_pretrained does (auto, balanced, …); without it, it goes to the
    accelerator of the process, or to the CPU."""
    quantization: str | None = None
    """The quantisation configuration as JSON, such as {"load_in_4bit": true}."""
    batch_size: int = 16
    """Requests at once; halved by itself where the memory is too small."""
    max_new_tokens: int = 64
    """The longest caption, in tokens."""
    num_beams: int = 1
    """Beams of the search; 1 is greedy."""
    temperature: float = 0.0
    """0 takes the likeliest tokens; above, texts are drawn, one request at a time."""
    top_p: float = 1.0
    """Where texts are drawn: from the likeliest tokens with this share of the probability."""
    seed: int = 0
    """Where texts are drawn: the lots, together with the request itself."""
    repetition_penalty: float | None = None
    """Above 1, repeated words become unlikelier; without it, what the checkpoint says."""
    back_end: Literal["pil", "torchvision"] = "pil"
    """What prepares the pixels."""
    prompt_format: str | None = None
    """For a model without a chat template: the text around the question, with {images} and
    {prompt}; without it, what models of its kind were trained on."""

    def __post_init__(self) -> None:
        for name, value in (("batch-size", self.batch_size), ("num-beams", self.num_beams),
                            ("max-new-tokens", self.max_new_tokens)):
            if value < 1:
                raise InputError(f"--{name} is {value}; give 1 or more.")
        if self.temperature < 0:
            raise InputError(f"--temperature is {self.temperature}; give 0 or more.")
        if not 0 < self.top_p <= 1:
            raise InputError(f"--top-p is {self.top_p}; give more than 0, at most 1.")
        if self.repetition_penalty is not None and self.repetition_penalty <= 0:
            raise InputError(f"--repetition-penalty is {self.repetition_penalty}; give more "
                             "than 0.")
        if self.quantization is not None:
            try:
                parsed = json.loads(self.quantization)
            except ValueError:
                parsed = None
            if not isinstance(parsed, dict):
                raise InputError("--quantization is no JSON object; give one such as "
                                 '{"load_in_4bit": true}.')
        if self.prompt_format is not None and "{prompt}" not in self.prompt_format:
            raise InputError("--prompt-format lacks {prompt}; put it where the question belongs.")


class TransformersCaptioner:
    """A model of transformers as a captioner of the cache; its weights load at the first text."""

    Options = TransformersOptions
    prompted = True

    def __init__(self, options: TransformersOptions) -> None:
        self._options = options
        self._fitting = options.batch_size
        self._too_large = 0

    @property
    def batch_size(self) -> int:
        """How many requests `caption` gets at once, at most."""
        return self._options.batch_size

    @cached_property
    def identity(self) -> Identity:
        """Everything that determines the texts: neither the batch nor the device does."""
        options, judging = self._options, self.judge_identity
        settings: dict[str, object] = {
            "max_new_tokens": options.max_new_tokens, "num_beams": options.num_beams,
            "repetition_penalty": options.repetition_penalty}
        if options.temperature > 0:
            settings |= {"temperature": options.temperature, "top_p": options.top_p,
                         "seed": options.seed}
        return replace(judging, settings={**judging.settings, **settings})

    @cached_property
    def judge_identity(self) -> Identity:
        """Everything that determines the answers to yes/no questions."""
        options, folder = self._options, Path(self._options.model)
        return Identity(
            "transformers", folder.resolve().name if folder.is_dir() else options.model,
            find_revision(options.model, self._config, options.revision),
            {"dtype": options.dtype, "quantization": options.quantization,
             "prompt_format": None if self._processor.chat_template else self._format},
            options.back_end)

    def caption(self, requests: Sequence[Request]) -> list[str | Refusal]:
        """Write one text for every request; see `Captioner.caption`."""
        return self._divided(requests, self._write)

    def judge(self, requests: Sequence[Request]) -> list[YesNo | Refusal]:
        """Weigh yes against no at the first token; see `Judge.judge`."""
        return self._divided(requests, self._weigh)

    # Loaded when first needed: a build with nothing to do must not wait for the weights.

    @cached_property
    def _config(self) -> Any:
        return load_config(self._options.model, self._options.revision)

    @cached_property
    def _processor(self) -> Any:
        return load_processor(
            self._options.model, self._options.revision, self._config, self._options.back_end)

    @cached_property
    def _model(self) -> Any:
        options = self._options
        return load_model(
            options.model, options.revision, dtype=options.dtype,
            device_map=options.device_map, quantization=options.quantization)

    @property
    def _format(self) -> str:
        return self._options.prompt_format or _FORMATS.get(
            self._config.model_type, _OTHER_FORMAT)

    def _divided(
        self, requests: Sequence[Request], act: Callable[[Any], list[R]]
    ) -> list[R | Refusal]:
        """Do something in batches that fit into the memory and that the processor takes."""
        self._refuse_several_images(requests)
        answers: list[R | Refusal] = []
        while rest := requests[len(answers):]:
            size = 1 if self._options.temperature > 0 else min(self._fitting, len(rest))
            inputs = None
            try:
                try:
                    inputs = self._prepare(rest[:size])
                except (ValueError, TypeError, IndexError, ZeroDivisionError):
                    if size > 1:  # find out which of them it is
                        answers += (answer for one in rest[:size]
                                    for answer in self._divided([one], act))
                    else:
                        answers.append(Refusal.UNPREPARED)
                    continue
                answers += act(inputs)
                self._too_large = 0
                continue
            except RuntimeError as error:
                if not _out_of_memory(error):
                    raise
            # Outside of "except", where the traceback would keep the tensors alive.
            del inputs
            _free_memory()
            if size > 1:
                self._fitting = size // 2
            else:
                answers.append(self._give_up_one())
        return answers

    def _give_up_one(self) -> Refusal:
        self._too_large += 1
        if self._too_large >= _HOPELESS:
            raise InVain(f"{self._options.model} finds no memory even for single requests; "
                         "quantise it (--quantization), spread it (--device-map auto) or "
                         "take a smaller one.", Refusal.MEMORY)
        return Refusal.MEMORY

    def _refuse_several_images(self, requests: Sequence[Request]) -> None:
        if (self._config.model_type in QUERY_MODELS
                and any(len(request.images) > 1 for request in requests)):
            raise InputError(f"{self._options.model} takes one image at a time; for texts about "
                             "several take a chat model (LLaVA-OneVision, Qwen-VL, …).")

    def _prepare(self, requests: Sequence[Request]) -> Any:
        """Tensors for the model, on its device."""
        processor = self._processor
        images = [[_workable(image) for image in request.images] for request in requests]
        prompts = [request.prompt or "" for request in requests]
        if processor.chat_template:
            inputs = processor.apply_chat_template(
                [[{"role": "user", "content": [
                    *({"type": "image", "image": image} for image in shown),
                    {"type": "text", "text": prompt}]}]
                 for shown, prompt in zip(images, prompts, strict=True)],
                add_generation_prompt=True, tokenize=True, return_dict=True,
                return_tensors="pt", processor_kwargs={"padding": True})
        elif self._config.model_type in QUERY_MODELS:
            inputs = processor(
                images=[image for [image] in images], padding=True, return_tensors="pt",
                text=[self._format.replace("{prompt}", prompt) for prompt in prompts])
        else:
            inputs = processor(
                images=images, padding=True, return_tensors="pt",
                text=[self._format.replace("{images}", processor.image_token * len(shown))
                      .replace("{prompt}", prompt)
                      for shown, prompt in zip(images, prompts, strict=True)])
        model = self._model
        return {name: value.to(model.device, model.dtype if value.is_floating_point() else None)
                for name, value in inputs.items()}

    @torch.inference_mode()
    def _write(self, inputs: Any) -> list[str]:
        options = self._options
        how: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None,
                               "top_k": None}
        if options.temperature > 0:
            torch.manual_seed(_seed(options.seed, inputs))
            how = {"do_sample": True, "temperature": options.temperature,
                   "top_p": options.top_p, "top_k": 0}
        if options.repetition_penalty is not None:
            how["repetition_penalty"] = options.repetition_penalty
        tokens = self._model.generate(
            **inputs, **how, num_beams=options.num_beams, max_new_tokens=options.max_new_tokens)
        asked = inputs["input_ids"]
        if tokens.shape[1] >= asked.shape[1] and tokens[:, :asked.shape[1]].equal(asked):
            tokens = tokens[:, asked.shape[1]:]
        texts: list[str] = self._processor.tokenizer.batch_decode(
            tokens, skip_special_tokens=True)
        return [text.strip() for text in texts]

    @torch.inference_mode()
    def _weigh(self, inputs: Any) -> list[YesNo]:
        # The model's own logits, before any penalty of the checkpoint's generation settings.
        first = self._model.generate(
            **inputs, do_sample=False, temperature=None, top_p=None, top_k=None, num_beams=1,
            max_new_tokens=1, return_dict_in_generate=True, output_logits=True).logits[0]
        chance = first.float().softmax(-1)
        yes, no = (chance[:, self._first_tokens(*words)].sum(-1).tolist()
                   for words in (("Yes", "yes"), ("No", "no")))
        return [YesNo(*both) for both in zip(yes, no, strict=True)]

    def _first_tokens(self, *words: str) -> list[int]:
        """The tokens that are one of the words, with or without a space before it."""
        tokenizer = self._processor.tokenizer
        spelt = [tokenizer(before + word, add_special_tokens=False)["input_ids"]
                 for word in words for before in ("", " ")]
        found = {tokens[0] for tokens in spelt if len(tokens) == 1}
        found.discard(tokenizer.unk_token_id)
        if not found:
            raise InputError(f"The tokenizer of {self._options.model} has no single token for "
                             f"{words[0]!r}, so it cannot answer yes/no questions; build with "
                             "--keep-all.")
        return sorted(found)


def _workable(image: Image.Image) -> Image.Image:
    """The image, grown or put on white where a side is too short for image processors.

    They take an image of 1 or 3 pixels' height for one whose channels come first, and refuse
    narrow strips.
    """
    short, long = sorted(image.size)
    least = max(_LEAST_SIDE, math.ceil(long / _MOST_STRETCH))
    if short >= least:
        return image
    times = math.ceil(least / short)
    if long * times <= _MOST_SIDE:
        return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
    return ImageOps.pad(image, (max(image.width, least), max(image.height, least)), color="white")


def _seed(seed: int, inputs: Any) -> int:
    """The lots of one request: a function of itself, so the order of requests plays no part."""
    whole = hashlib.sha256(str(seed).encode())
    for name in sorted(inputs):
        whole.update(inputs[name].cpu().float().numpy().tobytes())
    return int.from_bytes(whole.digest()[:7])


def _out_of_memory(error: RuntimeError) -> bool:
    said = str(error)
    return isinstance(error, torch.OutOfMemoryError) or any(words in said for words in (
        "out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED"))


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
