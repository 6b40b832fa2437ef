"""Loading an image-text model and its processor, with every check that saves a night of junk."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.utils.import_utils import is_torchvision_available

from caption_cache.errors import InputError
from caption_cache.prefetch import prefetch
from caption_cache.weights import refuse_incomplete

QUERY_MODELS = ("blip-2", "instructblip")
"""Model types whose processor places the images itself, one a request."""


def load_config(model: str, revision: str) -> Any:
    """Load the configuration of a model.

    Raises:
        InputError: There is no such model, or it is of an unknown kind.
    """
    with _explained(model):
        return AutoConfig.from_pretrained(model, revision=revision)


def find_revision(model: str, config: Any, revision: str) -> str:
    """What was really loaded: the commit of a hub model, or the content of a folder.

    A folder may move without a change of its revision, and any change of a file is a new one.

    Returns:
        The commit, or ``files-`` and 16 hex digits of the SHA-256 over names and contents.
    """
    folder = Path(model)
    if not folder.is_dir():
        return str(getattr(config, "_commit_hash", None) or revision)
    files = sorted(path for path in folder.rglob("*") if path.is_file()
                   and not any(part.startswith(".") for part in path.relative_to(folder).parts)
                   and path.suffix.lower() not in (".md", ".lock")
                   and not path.name.upper().startswith(("README", "LICENSE")))
    whole = hashlib.sha256()
    for path, digest in zip(files, prefetch(_digest, files, ahead=4), strict=True):
        whole.update(f"{path.relative_to(folder).as_posix()}\n{digest}\n".encode())
    return f"files-{whole.hexdigest()[:16]}"


def load_processor(model: str, revision: str, config: Any, back_end: str) -> Any:
    """Load the processor of a model, for images only.

    Args:
        model: Hub name or folder.
        revision: Branch, tag or commit on the hub.
        config: From `load_config`.
        back_end: ``pil`` or ``torchvision``.

    Raises:
        InputError: It cannot be loaded, or is too old for this version of transformers.
    """
    kind: Any = AutoProcessor
    known: Any = PROCESSOR_MAPPING.get(type(config), None)
    if (known is not None and "video_processor" in known.get_attributes()
            and not is_torchvision_available()):
        kind = _without_video(known)
    with _explained(model):
        processor = kind.from_pretrained(model, revision=revision, backend=back_end)
    if not hasattr(processor, "image_processor") or not hasattr(processor, "tokenizer"):
        raise InputError(f"{model} has no processor for images and text; give an image-text "
                         "model such as Salesforce/blip2-opt-2.7b.")
    if (found := processor.image_processor.backend) != back_end:
        raise InputError(f"{model} prepares images with {found} here, not with {back_end}; build "
                         f"with --back-end {found}, or install {back_end}.")
    _refuse_outdated(model, config, processor)
    # What a decoder goes on from must be the end of the question, not padding; an encoder that
    # counts relative positions must not get padding between the image and the question.
    text = getattr(config, "text_config", None) or config
    processor.tokenizer.padding_side = "right" if text.is_encoder_decoder else "left"
    if processor.tokenizer.pad_token is None:
        processor.tokenizer.pad_token = processor.tokenizer.eos_token
    return processor


def load_model(
    model: str, revision: str, *, dtype: str, device_map: str | None, quantization: str | None
) -> Any:
    """Load a model, ready to generate.

    Args:
        model: Hub name or folder.
        revision: Branch, tag or commit on the hub.
        dtype: ``auto`` or the name of a torch data type.
        device_map: ``auto``, ``balanced``, … as in `from_pretrained`; None for the accelerator
            of this process, or the CPU.
        quantization: The quantisation configuration as JSON, if any.

    Raises:
        InputError: It cannot be loaded, or weights are missing.
    """
    settings: dict[str, Any] = {"dtype": dtype if dtype == "auto" else getattr(torch, dtype)}
    if quantization is not None:
        from transformers.quantizers.auto import AutoQuantizationConfig

        with _explained(model):
            settings["quantization_config"] = AutoQuantizationConfig.from_dict(
                json.loads(quantization))
    settings["device_map"] = device_map or own_device()
    with _explained(model):
        both: Any = AutoModelForImageTextToText.from_pretrained(
            model, revision=revision, output_loading_info=True, **settings)
    loaded, about = both
    refuse_incomplete(model, about)
    return loaded.eval()


def own_device() -> str:
    """The device of this process: its own accelerator where there are any, or the CPU."""
    if not torch.accelerator.is_available():
        return "cpu"
    kind = torch.accelerator.current_accelerator()
    place = int(os.environ.get("LOCAL_RANK", 0)) % torch.accelerator.device_count()
    return f"{kind.type if kind else 'cpu'}:{place}"


def _without_video(kind: Any) -> Any:
    """A processor class that asks for no video processor, which would need torchvision."""
    attributes = [name for name in kind.get_attributes() if name != "video_processor"]
    return type(kind.__name__, (kind,), {"get_attributes": classmethod(lambda cls: attributes)})


def _refuse_outdated(model: str, config: Any, processor: Any) -> None:
    """Refuse checkpoints from before the image tokens stood in the text.

    The images of such a one would be dropped or put in the wrong place, without an error
    (huggingface/transformers, "Breaking change in BLIP-2 and LLaVA processors").
    """
    def refuse(what: str) -> InputError:
        return InputError(f"{model} is an old checkpoint without {what}; give a newer revision "
                          "of it, or save it again with the current transformers.")

    if config.model_type in QUERY_MODELS:
        if config.image_token_index is None:
            raise refuse("image_token_index in config.json")
        if processor.num_query_tokens is None:
            raise refuse("num_query_tokens in processor_config.json")
        if processor.num_query_tokens != config.num_query_tokens:
            raise InputError(f"{model}: num_query_tokens is {processor.num_query_tokens} in "
                             f"processor_config.json but {config.num_query_tokens} in "
                             "config.json; make them equal.")
    for name in ("patch_size", "vision_feature_select_strategy"):
        if config.model_type.startswith("llava") and getattr(processor, name, 0) is None:
            raise refuse(f"{name} in processor_config.json")
    placed = getattr(config, "image_token_id", None)
    token = str(getattr(processor, "image_token", None) or "")
    if placed is not None and token:
        spelt = processor.tokenizer.convert_tokens_to_ids(token)
        if spelt != placed:
            raise InputError(f"{model}: the image token {token!r} has the id {spelt} in the "
                             f"tokenizer but {placed} in config.json; make them equal.")


@contextmanager
def _explained(model: str) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        # transformers raises OSError, ValueError, ImportError, KeyError, … for what is the
        # user's to mend: a wrong name, no network, a missing package, no image-text model.
        why = " ".join(str(error).split())
        why = why if len(why) < 300 else why[:300] + " …"
        raise InputError(f"{model} cannot be loaded as an image-text model ({why}); give the "
                         "folder or the hub name of one, and mend what is said.") from error


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
