"""One more image, captioned as the images of a source were."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from caption_cache import gate
from caption_cache.captioners import Captioner, Refusal, Request, load_captioner, options_of
from caption_cache.errors import InputError
from caption_cache.images import ImageError, decode, read_bytes
from caption_cache.prompts import Prompt, read_prompts
from caption_cache.source import Source


def caption_as(source: Source, image: Path, name: str) -> str:
    """Caption an image of one entity, outside any data set; nothing is stored.

    Args:
        source: Whose caption it shall be; `captions.read_captions` tells.
        image: The file.
        name: What the entity is called, for a question that says so.

    Raises:
        InputError: The image cannot be read, its captioner or its question is not to be had as
            it was, or the caption is refused or junk.
    """
    try:
        pixels = decode(read_bytes(image.parent.resolve(), image.name))
    except ImageError as error:
        raise InputError(f"{image} cannot be shown to a captioner ({error.flaw.value}): "
                         f"{error.flaw.mend}.") from None
    question = _prompt(source, image)
    asked = None if question is None else question.fill({"name": name})
    try:
        captioner = _captioner(source)
        [text] = captioner.caption([Request((pixels,), asked)])
    except InputError as error:
        raise InputError(f"{image} cannot be captioned as the data set was, by {source.label} "
                         f"({error}); give a caption instead of the image.") from None
    if isinstance(text, Refusal):
        raise InputError(f"{image} got no caption ({text.value}): {text.mend}.")
    if reject := gate.judge(text, asked, "any"):
        raise InputError(f"The caption of {image}, {text!r}, is no use ({reject.value}); give a "
                         "caption instead of the image.")
    return text


def _captioner(source: Source) -> Captioner:
    identity = source.identity
    options = options_of(identity.captioner)
    made = None
    if options is not None:
        known = {"model": identity.model, "revision": identity.revision,
                 "back_end": identity.back_end, **identity.settings}
        made = options(**{entry.name: known[entry.name] for entry in fields(options)
                          if entry.name in known})
    captioner = load_captioner(identity.captioner, made)
    if captioner.identity != identity:
        raise InputError(f"{identity.captioner} is here another version, or has other settings")
    return captioner


def _prompt(source: Source, image: Path) -> Prompt | None:
    if source.prompt_hash is None:
        return None
    for hidden in (False, True):
        for prompt in read_prompts(names_hidden=hidden).values():
            if prompt.hash == source.prompt_hash:
                return prompt
    raise InputError(f"{image} cannot be captioned as the data set was: the question of "
                     f"{source.label} is not among the standard ones; give a caption instead of "
                     "the image.")
