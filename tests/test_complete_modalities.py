"""Gaps are filled by real pipelines of random weights, marked, and masked out again."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import pre_tokenizers

from caption_cache.build import build
from caption_cache.captioners import load_captioner
from caption_cache.errors import InputError
from caption_cache.images import find_images, read_entities
from kgc_seq2seq.cli import main
from kgc_seq2seq.graph.folder import read_graph
from kgc_seq2seq.scorers.features.choose import FeatureChoice, make_vectors
from kgc_seq2seq.scorers.features.generated import (
    read_generated_images,
    read_generated_texts,
)
from kgc_seq2seq.scorers.features.text_to_image import PaintConfig, Painter
from kgc_seq2seq.scorers.vectors import read_vectors, vectors_path

needs_diffusers = pytest.mark.skipif(
    importlib.util.find_spec("diffusers") is None,
    reason="diffusers is not installed (extra generate-images)")
IDS = tuple(f"e{i}" for i in range(9))
SMALL = ["--steps", "2", "--size", "16", "--device", "cpu"]


@pytest.fixture(scope="session")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An SDXL and a Stable Diffusion with random weights, saved as a hub would give them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what diffusers imports
        import diffusers
        from diffusers import (
            AutoPipelineForText2Image,  # noqa: F401  (it imports every pipeline there is)
            StableDiffusionPipeline,
            StableDiffusionXLPipeline,
        )
    from transformers import (
        CLIPTextConfig,
        CLIPTextModel,
        CLIPTextModelWithProjection,
        CLIPTokenizer,
    )

    torch.manual_seed(0)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters),
                  "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={word: i for i, word in enumerate(vocabulary)}, merges=[],
                              model_max_length=77)
    size = len(vocabulary)
    text = CLIPTextConfig(
        vocab_size=size, hidden_size=16, intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=2, projection_dim=16, bos_token_id=size - 2, eos_token_id=size - 1,
        pad_token_id=size - 1)
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 8), norm_num_groups=4, sample_size=16, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2)
    scheduler = diffusers.EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1)
    unet: dict[str, Any] = {
        "sample_size": 8, "block_out_channels": (8, 16), "layers_per_block": 1,
        "norm_num_groups": 4, "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "attention_head_dim": (2, 4)}
    folder = tmp_path_factory.mktemp("pipelines")
    made = {"sdxl": StableDiffusionXLPipeline(
        vae=vae, text_encoder=CLIPTextModel(text),
        text_encoder_2=CLIPTextModelWithProjection(text), tokenizer=tokenizer,
        tokenizer_2=tokenizer, scheduler=scheduler, unet=diffusers.UNet2DConditionModel(
            **unet, addition_embed_type="text_time", addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=16 + 6 * 8, cross_attention_dim=32)),
        "sd": StableDiffusionPipeline(
            vae=vae, text_encoder=CLIPTextModel(text), tokenizer=tokenizer, scheduler=scheduler,
            unet=diffusers.UNet2DConditionModel(**unet, cross_attention_dim=16),
            safety_checker=None, feature_extractor=None, requires_safety_checker=False)}
    for name, pipeline in made.items():
        pipeline.save_pretrained(folder / name)
    return {name: folder / name for name in made}


@pytest.fixture
def pictured(tiny: Path) -> Path:
    """The tiny data set; two entities have images, two have descriptions."""
    (tiny / "entities.tsv").write_text("id\tname\tdescription\n" + "".join(
        f"e{i}\tthing {i}\t{'round and sweet' if i in (1, 4) else ''}\n" for i in range(9)))
    for entity, colour in (("e0", "red"), ("e1", "blue")):
        path = tiny / "images" / entity / "0.png"
        path.parent.mkdir(parents=True)
        Image.new("RGB", (30, 20), colour).save(path)
    return tiny


@pytest.fixture
def complete(
    pipelines: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> Callable[..., list[dict[str, Any]]]:
    """Run the command, and give its answer."""
    def call(dataset: Path, *words: str, model: str = "sdxl") -> list[dict[str, Any]]:
        assert main(["complete-modalities", str(dataset), "--model", str(pipelines[model]), *SMALL,
                     *words, "--json"]) == 0
        found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
        return found
    return call


def pixels(dataset: Path) -> dict[str, np.ndarray]:
    found = {}
    for row in read_generated_images(dataset):
        with Image.open(dataset / row.path) as image:
            found[row.entity] = np.asarray(image).astype(int)
    return found


@needs_diffusers
@pytest.mark.parametrize("model", ["sdxl", "sd"])
def test_whoever_has_no_image_gets_one(
    pictured: Path, complete: Callable[..., Any], model: str
) -> None:
    done, = complete(pictured, model=model)
    assert (done["modality"], done["entities"], done["lacking"]) == ("image", 9, 7)
    assert (done["made"], done["kept"]) == (7, 0)
    rows = read_generated_images(pictured)
    assert [row.entity for row in rows] == [f"e{i}" for i in range(2, 9)]
    assert rows[0].prompt == "thing 2"
    assert rows[2].prompt == "thing 4. round and sweet"
    assert json.loads(rows[0].settings)["steps"] == 2
    found = pixels(pictured)
    assert all(image.shape == (16, 16, 3) for image in found.values())
    assert len({image.tobytes() for image in found.values()}) == 7
    # Nobody takes them for photographs.
    images = find_images(pictured, read_entities(pictured))
    assert [image.entity for image in images] == ["e0", "e1"]


@needs_diffusers
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Euler's
def test_images_follow_from_seed_and_entity(
    pictured: Path, complete: Callable[..., Any]
) -> None:
    complete(pictured)
    first = pixels(pictured)
    written = {path: path.stat().st_mtime_ns for path in (pictured / "generated").rglob("*.png")}
    done, = complete(pictured, "--batch-size", "1")
    assert (done["made"], done["kept"]) == (0, 7)
    assert written == {path: path.stat().st_mtime_ns for path in written}
    (pictured / "generated" / "images" / "e5.png").unlink()
    done, = complete(pictured, "--batch-size", "1")  # its neighbours in the batch do not count
    assert (done["made"], done["kept"]) == (1, 6)
    assert np.abs(pixels(pictured)["e5"] - first["e5"]).max() <= 1
    done, = complete(pictured, "--seed", "1")
    assert (done["made"], done["kept"]) == (7, 0)
    assert all((pixels(pictured)[entity] != image).any() for entity, image in first.items())
    own, = complete(pictured, "--scheduler", "own", "--guidance", "1.5")
    assert own["made"] == 7


@needs_diffusers
def test_a_stopped_command_loses_at_most_its_batch(
    pictured: Path, pipelines: dict[str, Path], complete: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch
) -> None:
    paint, calls = Painter.paint, 0

    def stop_at_the_third(self: Painter, prompts: Sequence[str], noise: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return paint(self, prompts, noise)

    monkeypatch.setattr(Painter, "paint", stop_at_the_third)
    assert main(["complete-modalities", str(pictured), "--model", str(pipelines["sdxl"]), *SMALL,
                 "--batch-size", "2"]) == 130
    assert len(read_generated_images(pictured)) == 4
    monkeypatch.undo()
    done, = complete(pictured, "--batch-size", "2")
    assert (done["made"], done["kept"]) == (3, 4)


@needs_diffusers
def test_what_is_needed_no_longer_goes(pictured: Path, complete: Callable[..., Any]) -> None:
    complete(pictured)
    (pictured / "images" / "e2").mkdir()
    Image.new("RGB", (20, 20), "green").save(pictured / "images" / "e2" / "photograph.png")
    make_vectors(pictured, FeatureChoice(modalities=("image",)), show_progress=False)
    found = read_vectors(vectors_path(pictured, "image"), IDS)
    assert found.generated is not None
    assert not found.generated[2]  # the photograph is preferred at once
    done, = complete(pictured)
    assert (done["lacking"], done["made"], done["kept"]) == (6, 0, 6)
    assert not (pictured / "generated" / "images" / "e2.png").exists()


@needs_diffusers
def test_vectors_of_what_was_generated_are_marked_and_left_out(
    pictured: Path, complete: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    complete(pictured)
    assert main(["features", str(pictured), "--modality", "image", "--json"]) == 0
    made, = json.loads(capsys.readouterr().out)
    assert (made["vectors"], made["generated"]) == (9, 7)
    found = read_vectors(vectors_path(pictured, "image"), IDS)
    assert found.generated is not None
    assert found.generated.tolist() == [False] * 2 + [True] * 7
    without = found.without_generated()
    assert without.mask.tolist() == [True] * 2 + [False] * 7
    assert not without.values[2:].any()
    assert main(["features", str(pictured), "--modality", "image", "--without-generated",
                 "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["vectors"] == 2
    plain = read_vectors(vectors_path(pictured, "image"), IDS)
    assert torch.equal(plain.values, without.values)
    assert torch.equal(plain.mask, without.mask)


@needs_diffusers
def test_a_data_set_without_any_image_has_generated_ones(
    tiny: Path, complete: Callable[..., Any]
) -> None:
    assert complete(tiny)[0]["made"] == 9
    made = make_vectors(tiny, FeatureChoice(), show_progress=False)
    assert [(entry.modality, entry.vectors, entry.generated) for entry in made] == [
        ("image", 9, 9), ("text", 9, 0)]
    (tiny / "generated" / "images" / "e3.png").unlink()
    with pytest.raises(InputError, match=r"e3\.png is missing; run 'kgc complete-modalities"):
        make_vectors(tiny, FeatureChoice(), show_progress=False)


@needs_diffusers
def test_what_a_filter_keeps_back_is_not_asked_again(
    pictured: Path, complete: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    paint = Painter.paint
    monkeypatch.setattr(Painter, "paint", lambda self, prompts, noise: [
        None if "4" in prompt else image
        for prompt, image in zip(prompts, paint(self, prompts, noise), strict=True)])
    done, = complete(pictured)
    assert (done["lacking"], done["made"]) == (7, 6)
    assert [row.entity for row in read_generated_images(pictured) if not row.path] == ["e4"]
    done, = complete(pictured)
    assert (done["made"], done["kept"]) == (0, 6)
    make_vectors(pictured, FeatureChoice(modalities=("image",)), show_progress=False)
    assert not read_vectors(vectors_path(pictured, "image"), IDS).mask[4]


def test_captions_stand_for_missing_descriptions(
    pictured: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build(pictured, load_captioner("palette"), show_progress=False)
    command = ["complete-modalities", str(pictured), "--modality", "text", "--json"]
    assert main(command) == 0
    done, = json.loads(capsys.readouterr().out)
    assert (done["modality"], done["lacking"], done["made"], done["kept"]) == ("text", 7, 1, 0)
    row, = read_generated_texts(pictured)
    assert row.entity == "e0"  # e1 has a description, which stays
    assert "red" in row.text
    assert row.source.startswith("palette")
    assert "round and sweet" in (pictured / "entities.tsv").read_text()
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)[0]["kept"] == 1

    vectors = {}
    for generated in (False, True):
        made, = make_vectors(pictured, FeatureChoice(modalities=("text",), generated=generated),
                             show_progress=False)
        assert made.generated == generated
        vectors[generated] = read_vectors(vectors_path(pictured, "text"), IDS)
    marks = vectors[True].generated
    assert marks is not None
    assert marks.tolist() == [True] + [False] * 8
    assert not torch.equal(vectors[True].values[0], vectors[False].values[0])
    (pictured / "entities.tsv").write_text((pictured / "entities.tsv").read_text().replace(
        "thing 0\t", f"thing 0\t{row.text}"))  # now a person says the same
    made, = make_vectors(pictured, FeatureChoice(modalities=("text",)), show_progress=False)
    assert made.generated == 0


def test_a_scorer_trains_with_and_without_completion(
    pictured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from kgc_seq2seq.scorers.scorer import EntityScorer
    from kgc_seq2seq.train_scorer import main as train

    build(pictured, load_captioner("palette"), show_progress=False)
    assert main(["complete-modalities", str(pictured), "--modality", "text"]) == 0
    make_vectors(pictured, FeatureChoice(dim=5), show_progress=False)
    for completion, entities in (("true", 9), ("false", 8)):
        run = tmp_path / completion
        assert train(["--scorer", "lbmkgc", "--dataset", str(pictured), "--out", str(run),
                      "--model.dim", "4", "--model.completion", completion,
                      "--training.steps", "2", "--training.batch_size", "4"]) == 0
        scorer = EntityScorer.from_pretrained(run / "model", read_graph(pictured))
        assert int(scorer.vectors("text").mask.sum()) == entities
    capsys.readouterr()


@pytest.fixture
def without_diffusers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    yield


@pytest.mark.usefixtures("without_diffusers")
def test_the_missing_extra_is_named(pictured: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["complete-modalities", str(pictured)]) == 2
    assert "pip install 'kgc-seq2seq[generate-images]'" in capsys.readouterr().err


@needs_diffusers
@pytest.mark.parametrize("words, sentence", [
    (["--model", "{here}/none"], "none cannot be loaded as a text-to-image pipeline"),
    (["--device", "nowhere"], "on nowhere"),
    (["--size", "20"], "--size is 20; give a multiple of 8"),
    (["--steps", "0"], "--steps is 0"),
    (["--batch-size", "0"], "--batch-size is 0"),
    (["--guidance", "-1"], "--guidance is -1"),
    (["--prompt", "a thing"], "--prompt is 'a thing'"),
    (["--prompt", "{nam}"], "--prompt is '{nam}'"),
    (["--prompt", "{name"], "--prompt is '{name'"),
    (["--modality", "text"], "has no captions"),
])
def test_mistakes_are_refused_in_one_sentence(
    pictured: Path, pipelines: dict[str, Path], tmp_path: Path,
    capsys: pytest.CaptureFixture[str], words: list[str], sentence: str
) -> None:
    model = [] if "--model" in words else ["--model", str(pipelines["sd"])]
    assert main(["complete-modalities", str(pictured), *model,
                 *(word.replace("{here}", str(tmp_path)) for word in words)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert sentence in printed.err
    assert len(printed.err.strip().split("\n")) == 1


@needs_diffusers
def test_pixels_that_are_not_numbers_are_refused(pipelines: dict[str, Path]) -> None:
    config = PaintConfig(model=str(pipelines["sd"]), steps=1, size=16, device="cpu")
    painter = Painter(config)
    torch.nn.init.constant_(painter._pipeline.vae.decoder.conv_out.bias, torch.nan)
    with pytest.raises(InputError, match=r"not numbers in float32; give --dtype"):
        painter.paint(["thing"], [config.noise("e0")])


@needs_diffusers
def test_a_scheduler_that_ddim_cannot_stand_for_is_refused(
    pipelines: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "flow"
    shutil.copytree(pipelines["sd"], folder)
    from diffusers import FlowMatchEulerDiscreteScheduler

    FlowMatchEulerDiscreteScheduler().save_pretrained(folder / "scheduler")
    index = json.loads((folder / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", "FlowMatchEulerDiscreteScheduler"]
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"FlowMatchEuler.*; give --scheduler own"):
        Painter(PaintConfig(model=str(folder), device="cpu"))
