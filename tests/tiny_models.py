"""Small random models of the real classes, saved as a user finds them: a folder each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    CLIPVisionConfig,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipProcessor,
    InstructBlipQFormerConfig,
    InstructBlipVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    OPTConfig,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    T5Config,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

VISION = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
          "num_attention_heads": 2, "image_size": 16, "patch_size": 8}
QFORMER = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
           "num_attention_heads": 2, "vocab_size": 500}
TEXT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "max_position_embeddings": 512}
CHAT = ("{{% for message in messages %}}USER: {{% for part in message['content'] %}}"
        "{{% if part['type'] == 'image' %}}{image}{{% else %}}{{{{ part['text'] }}}}{{% endif %}}"
        "{{% endfor %}} ASSISTANT:{{% endfor %}}")
WORDS = "Yes No yes no this image shows a red green blue thing and one more"


def make_tokenizer(*extra: str) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator([WORDS] * 5, trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<pad>", "<s>", "</s>", "<image>", *extra],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>",
                                   eos_token="</s>")


def special(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    return {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id}


def make_opt(tokenizer: PreTrainedTokenizerFast) -> OPTConfig:
    return OPTConfig(vocab_size=len(tokenizer) + 8, ffn_dim=24, word_embed_proj_dim=16,
                     **TEXT, **special(tokenizer))


def make_t5(tokenizer: PreTrainedTokenizerFast) -> T5Config:
    return T5Config(vocab_size=len(tokenizer) + 8, d_model=16, d_kv=8, d_ff=24, num_layers=1,
                    num_heads=2, decoder_start_token_id=0, pad_token_id=0,
                    eos_token_id=tokenizer.eos_token_id)


def save(folder: Path, model: Any, processor: Any, spread: float = 0.4) -> Path:
    with torch.no_grad():
        for weights in model.parameters():  # large enough that images and questions matter
            weights.normal_(0, spread)
    # A checkpoint that samples by itself: "greedy by default" must not depend on it.
    model.generation_config.update(do_sample=True, temperature=0.7, top_k=5, top_p=0.9)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def blip_2(folder: Path, text: str, **changes: Any) -> Path:
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    config = Blip2Config(**{
        "vision_config": Blip2VisionConfig(**VISION), "num_query_tokens": 4,
        "qformer_config": Blip2QFormerConfig(**QFORMER),
        "text_config": make_opt(tokenizer) if text == "opt" else make_t5(tokenizer),
        "image_token_index": tokenizer.convert_tokens_to_ids("<image>"), **changes})
    images = BlipImageProcessorPil(size={"height": 16, "width": 16})
    return save(folder, Blip2ForConditionalGeneration(config),
                Blip2Processor(images, tokenizer, num_query_tokens=4))


def instructblip(folder: Path) -> Path:
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    config = InstructBlipConfig(
        vision_config=InstructBlipVisionConfig(**VISION), num_query_tokens=4,
        qformer_config=InstructBlipQFormerConfig(**QFORMER), text_config=make_t5(tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"))
    images = BlipImageProcessorPil(size={"height": 16, "width": 16})
    return save(folder, InstructBlipForConditionalGeneration(config), InstructBlipProcessor(
        images, tokenizer, make_tokenizer(), num_query_tokens=4), spread=0.9)


def llava(folder: Path, *, chat: bool = True, **changes: Any) -> Path:
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**VISION), vision_feature_layer=-1,
        text_config=LlamaConfig(vocab_size=len(tokenizer) + 8, intermediate_size=24, **TEXT,
                                **special(tokenizer)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"))
    images = CLIPImageProcessorPil(size={"shortest_edge": 16},
                                   crop_size={"height": 16, "width": 16})
    return save(folder, LlavaForConditionalGeneration(config), LlavaProcessor(
        images, tokenizer, **{
            "patch_size": 8, "vision_feature_select_strategy": "default",
            "num_additional_image_tokens": 1,
            "chat_template": CHAT.format(image="<image>\n") if chat else None, **changes}))


class ImagesOnly(Qwen2_5_VLProcessor):
    """As far as it can be built without torchvision, which its video processor needs."""

    @classmethod
    def get_attributes(cls) -> list[str]:
        return ["image_processor", "tokenizer"]


ImagesOnly.__name__ = "Qwen2_5_VLProcessor"


def qwen(folder: Path) -> Path:
    marks = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    tokenizer = make_tokenizer(*marks)
    start, end, image, video = map(tokenizer.convert_tokens_to_ids, marks)
    torch.manual_seed(0)
    config = Qwen2_5_VLConfig(
        text_config={
            **TEXT, **special(tokenizer), "vocab_size": len(tokenizer) + 8,
            "intermediate_size": 24, "num_key_value_heads": 2, "rope_parameters": {
                "rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}},
        vision_config={
            "depth": 2, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2,
            "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2,
            "out_hidden_size": 16, "fullatt_block_indexes": [1], "window_size": 56,
            "in_channels": 3},
        image_token_id=image, video_token_id=video, vision_start_token_id=start,
        vision_end_token_id=end)
    images = Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=2 * 56 * 56)
    template = CHAT.format(image="<|vision_start|><|image_pad|><|vision_end|>")
    return save(folder, Qwen2_5_VLForConditionalGeneration(config),
                ImagesOnly(images, tokenizer, chat_template=template))


MODELS = {
    "blip-2-opt": lambda folder: blip_2(folder, "opt"),
    "blip-2-t5": lambda folder: blip_2(folder, "t5"),
    "instructblip": instructblip,
    "llava": llava,
    "llava-without-template": lambda folder: llava(folder, chat=False),
    "qwen2.5-vl": qwen,
}
"""Each makes a model in a folder, and gives the folder."""
