"""Vectors: made without weights or by CLIP, kept with their ids, refused when they do not fit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load, load_file, save_file

from caption_cache.errors import InputError
from kgc_seq2seq.cli import main
from kgc_seq2seq.graph.folder import read_graph
from kgc_seq2seq.scorers.features import make, towers
from kgc_seq2seq.scorers.features.make import make_image_vectors, make_text_vectors
from kgc_seq2seq.scorers.features.plain import ImageStatistics, TermWeights
from kgc_seq2seq.scorers.ids import pack, unpack
from kgc_seq2seq.scorers.vectors import (
    Vectors,
    align,
    read_vectors,
    vectors_path,
    write_vectors,
)

IDS = tuple(f"e{i}" for i in range(9))


def paint(dataset: Path, **colours: Sequence[str]) -> None:
    """Give entities images of one colour each."""
    for entity, names in colours.items():
        for number, name in enumerate(names):
            path = dataset / "images" / entity / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (30, 20), name).save(path)


@pytest.fixture
def pictured(tiny: Path) -> Path:
    paint(tiny, e0=["red"], e1=["red"], e2=["blue", "red"], e5=["green"])
    return tiny


@given(st.lists(st.text(st.characters(exclude_characters="\n", exclude_categories=("Cs",)),
                        min_size=1), min_size=1))
def test_ids_survive_packing(ids: list[str]) -> None:
    assert unpack(pack(ids)) == tuple(ids)


def test_the_default_writes_both_modalities(
    pictured: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["features", str(pictured), "--json"]) == 0
    image, text = json.loads(capsys.readouterr().out)
    assert (image["entities"], image["vectors"], image["width"]) == (9, 4, 163)
    assert (text["entities"], text["vectors"]) == (9, 9)
    found = read_vectors(vectors_path(pictured, "image"), IDS)
    assert found.mask.tolist() == [True, True, True, False, False, True, False, False, False]
    assert not found.values[~found.mask].any()
    assert torch.equal(found.values[0], found.values[1])
    blue_and_red = ImageStatistics().encode([Image.new("RGB", (30, 20), "blue"),
                                             Image.new("RGB", (30, 20), "red")]).mean(0)
    torch.testing.assert_close(found.values[2], blue_and_red)
    texts = read_vectors(vectors_path(pictured, "text"), IDS)
    torch.testing.assert_close(texts.values.norm(dim=1), torch.ones(9))


def test_without_images_there_are_texts(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["features", str(tiny), "--json"]) == 0
    assert [entry["modality"] for entry in json.loads(capsys.readouterr().out)] == ["text"]


def test_a_model_of_images_is_not_given_in_vain(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["features", str(tiny), "--image-model", "x"]) == 2
    assert f"of the modality image, which {tiny} has nothing of" in capsys.readouterr().err


def test_names_that_share_words_are_near() -> None:
    texts = ["red apple", "green apple", "grand piano", "upright piano", "sea"]
    vectors = TermWeights().encode(texts)
    near = vectors @ vectors.T
    assert near[0, 1] > 0.2
    assert near[2, 3] > 0.2
    assert near[0, 2] == pytest.approx(0, abs=1e-5)
    assert torch.equal(vectors, TermWeights().encode(texts))
    assert TermWeights(2).encode(texts).shape == (5, 2)


def test_statistics_tell_colours_places_and_directions() -> None:
    def bars(axis: int) -> Image.Image:
        pixels = np.zeros((48, 48, 3), np.uint8)
        pixels[(np.indices((48, 48))[axis] // 8) % 2 == 0] = 255
        return Image.fromarray(pixels)
    halves = Image.new("RGB", (40, 40), "white")
    halves.paste("black", (0, 0, 20, 40))
    found = ImageStatistics().encode([bars(0), bars(1), halves, halves.rotate(180)])
    assert found.shape == (4, 163)
    assert torch.isfinite(found).all()
    colours, layout, edges = found.split([64, 27, 72], 1)
    torch.testing.assert_close(colours[0], colours[1], atol=0.1, rtol=0)
    assert (edges[0] - edges[1]).abs().max() > 0.9
    assert (layout[2] - layout[3]).abs().max() > 0.9
    assert torch.equal(ImageStatistics().encode([bars(0)])[0], found[0])


def test_images_that_cannot_be_opened_are_passed_over(pictured: Path) -> None:
    (pictured / "images" / "e0" / "0.png").write_bytes(b"no image")
    (pictured / "images" / "e2" / "1.png").write_bytes(b"")
    made = make_image_vectors(pictured, ImageStatistics(), show_progress=False)
    assert made.vectors == 3
    found = read_vectors(vectors_path(pictured, "image"), IDS)
    blue = ImageStatistics().encode([Image.new("RGB", (30, 20), "blue")])[0]
    torch.testing.assert_close(found.values[2], blue)
    for path in (pictured / "images").rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match=r"None of the images for .*image\.safetensors can be op"):
        make_image_vectors(pictured, ImageStatistics(), show_progress=False)


class Counting(ImageStatistics):
    batch_size = 2

    def __init__(self, fail_after: int = 99) -> None:
        self.seen = 0
        self.fail_after = fail_after

    def encode(self, images: Sequence[Image.Image]) -> torch.Tensor:
        if self.seen >= self.fail_after:
            raise KeyboardInterrupt
        self.seen += len(images)
        return super().encode(images)


def test_a_stopped_command_goes_on_and_a_finished_one_rests(pictured: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        make_image_vectors(pictured, Counting(2), show_progress=False)
    rest = Counting()
    make_image_vectors(pictured, rest, show_progress=False)
    assert rest.seen == 3
    assert [path.name for path in (pictured / "features").iterdir()] == ["image.safetensors"]
    idle = Counting()
    make_image_vectors(pictured, idle, show_progress=False)
    assert idle.seen == 0
    paint(pictured, e7=["black"])
    more = Counting()
    make_image_vectors(pictured, more, show_progress=False)
    assert more.seen == 6  # anew: finished work keeps no blocks
    whole = load_file(vectors_path(pictured, "image"))
    assert torch.equal(whole["values"][[0, 5]], ImageStatistics().encode(
        [Image.new("RGB", (30, 20), colour) for colour in ("red", "green")]))


def test_captions_count_as_text(nations: Path, tmp_path: Path) -> None:
    class Texts:
        batch_size = 1000

        def __init__(self) -> None:
            self.identity = {"encoder": "texts"}
            self.seen: tuple[str, ...] = ()

        def encode(self, items: Sequence[str]) -> torch.Tensor:
            self.seen = tuple(items)
            return torch.ones(len(items), 1)

    shutil.copytree(nations, tmp_path, dirs_exist_ok=True)
    with_them, without = Texts(), Texts()
    make_text_vectors(tmp_path, without, show_progress=False)
    make_text_vectors(tmp_path, with_them, captions="", show_progress=False)
    assert any(len(a) > len(b) for a, b in zip(with_them.seen, without.seen, strict=True))
    assert all(a.startswith(b) for a, b in zip(with_them.seen, without.seen, strict=True))


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small CLIP with random weights, saved as a hub would give it."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("clip")
    words = ["<pad>", "<unk>", "<end>", "thing", "apple", "pear", "plum", "fruit", "red"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>",
                            eos_token="<end>").save_pretrained(folder)
    torch.manual_seed(0)
    layer = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
             "num_attention_heads": 2}
    CLIPModel(CLIPConfig(
        text_config={**layer, "vocab_size": len(words), "max_position_embeddings": 8,
                     "eos_token_id": 2, "pad_token_id": 0, "bos_token_id": 1},
        vision_config={**layer, "image_size": 16, "patch_size": 8}, projection_dim=12,
    )).save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}
                          ).save_pretrained(folder)
    return folder


def test_only_a_whole_clip_on_a_device_that_is_there_makes_vectors(
    pictured: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import ViTConfig, ViTModel

    ViTModel(ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                       intermediate_size=16, image_size=16, patch_size=8)
             ).save_pretrained(tmp_path / "vit")
    cut = tmp_path / "cut"
    shutil.copytree(clip, cut)
    weights = load_file(cut / "model.safetensors")
    save_file({name: weight for name, weight in weights.items() if "visual_proj" not in name},
              cut / "model.safetensors", {"format": "pt"})
    words = ["features", str(pictured), "--modality", "image", "--image-model"]
    for more, why in (([str(tmp_path / "vit")], "is a vit, where a CLIP is needed"),
                      ([str(cut)], "lacks 1 of the model's weights"),
                      ([str(clip), "--device", "nowhere"], "--device nowhere is not to be had")):
        assert main([*words, *more]) == 2
        said = capsys.readouterr().err.strip().split("\n")[-1]
        assert why in said
    assert not (pictured / "features" / "image.safetensors").exists()


def test_a_model_runs_on_the_accelerator_unless_told_otherwise(
    pictured: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(towers, "own_device", lambda: "meta")  # it can be loaded to, and no more
    words = ["features", str(pictured), "--modality", "image", "--image-model", str(clip)]
    with pytest.raises(NotImplementedError, match="meta"):
        main(words)
    assert main([*words, "--device", "cpu"]) == 0


def test_other_weights_in_the_same_folder_make_other_vectors(
    pictured: Path, clip: Path, tmp_path: Path
) -> None:
    here = tmp_path / "clip"
    shutil.copytree(clip, here)
    words = ["features", str(pictured), "--modality", "image", "--image-model", str(here)]
    path = pictured / "features" / "image.safetensors"
    assert main(words) == 0
    before = path.read_bytes()
    assert main(words) == 0
    assert path.read_bytes() == before
    weights = load_file(here / "model.safetensors")
    save_file({name: -weight if "visual_proj" in name else weight
               for name, weight in weights.items()}, here / "model.safetensors", {"format": "pt"})
    assert main(words) == 0
    assert torch.allclose(load_file(path)["values"], -load(before)["values"])


def test_clip_makes_both_modalities(
    pictured: Path, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["features", str(pictured), "--image-model", str(clip), "--text-model", str(clip),
               "--batch-size", "2", "--json"]
    assert main(command) == 0
    assert [entry["width"] for entry in json.loads(capsys.readouterr().out)] == [12, 12]
    image = read_vectors(vectors_path(pictured, "image"), IDS)
    assert image.mask.tolist() == [True, True, True, False, False, True, False, False, False]
    torch.testing.assert_close(image.values[0], image.values[1])
    torch.testing.assert_close(image.values[0].norm(), torch.tensor(1.0))
    red, blue = image.values[0], 2 * image.values[2] - image.values[0]
    torch.testing.assert_close(blue.norm(), torch.tensor(1.0))  # pooled: the mean of red and blue
    assert not torch.allclose(red, blue)
    text = read_vectors(vectors_path(pictured, "text"), IDS)
    torch.testing.assert_close(text.values.norm(dim=1), torch.ones(9))
    assert not torch.allclose(text.values[0], text.values[1])


@pytest.mark.parametrize("words, sentence", [
    (["--image-model", "{here}/none"], "No encoder can be loaded from"),
    (["--image-model", "x", "--image-matrix", "y", "--rows", "z"], "give one"),
    (["--image-matrix", "y"], "--rows names the entities"),
    (["--rows", "y"], "--rows names the entities"),
    (["--dim", "0"], "'0' is not a whole number"),
    (["--captions"], "has no captions"),
    (["--modality", "sound"], "invalid choice: 'sound'"),
    (["--modality", "text", "--image-model", "x"], "--modality does not ask for; name it there"),
])
def test_mistakes_are_refused_in_one_sentence(
    pictured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str],
    sentence: str
) -> None:
    assert main(["features", str(pictured), *(w.format(here=tmp_path) for w in words)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert sentence in printed.err


VALUES, MASK = torch.arange(6.0).reshape(3, 2) + 1, torch.tensor([True, True, False])


def test_rows_follow_their_ids_not_their_order() -> None:
    found = align("f", VALUES, MASK, ["c", "a", "b"], ("a", "b", "c", "d"))
    assert found.values.tolist() == [[3, 4], [0, 0], [1, 2], [0, 0]]
    assert found.mask.tolist() == [True, False, True, False]


@pytest.mark.parametrize("change, sentence", [
    ({"values": VALUES[0]}, r"the shape \(2,\)"),
    ({"values": VALUES.long()}, r"type torch\.int64"),
    ({"values": VALUES[:2]}, "2 rows, 3 marks in the mask and 3 ids do not fit"),
    ({"mask": MASK.float()}, "do not fit together"),
    ({"generated": MASK[:2]}, "do not fit together"),
    ({"ids": ["a", "b"]}, "2 ids do not fit"),
    ({"ids": ["a", "b", "x"]}, "'x' is no entity of this graph"),
    ({"ids": ["a", "b", "b"]}, "the entity 'b' has two rows"),
    ({"values": VALUES / torch.tensor([[1.0], [0.0], [1.0]])}, "vector of 'b' holds NaN"),
    ({"mask": ~MASK & MASK}, "no entity has a vector"),
])
def test_vectors_that_do_not_fit_are_refused(
    change: dict[str, torch.Tensor], sentence: str
) -> None:
    given = {"values": VALUES, "mask": MASK, "ids": ["a", "b", "c"], **change}
    with pytest.raises(InputError, match=f"^features: .*{sentence}.*; "):
        align("features", entity_ids=("a", "b", "c"), **given)


def test_marks_of_what_was_generated_follow_their_ids(tmp_path: Path) -> None:
    path = tmp_path / "image.safetensors"
    marks = torch.tensor([True, False, True])
    write_vectors(path, ["c", "a", "b"], Vectors(VALUES, MASK, marks), {})
    found = read_vectors(path, ("a", "b", "c", "d"))
    assert found.generated is not None
    assert found.generated.tolist() == [False, False, True, False]  # b has no vector at all
    assert found.without_generated().mask.tolist() == [True, False, False, False]
    older = load_file(path)
    del older["generated"]
    save_file(older, path)
    found = read_vectors(path, ("a", "b", "c", "d"))
    assert found.generated is None
    assert found.without_generated() is found


def test_numbers_that_are_masked_out_may_be_anything() -> None:
    values = VALUES.clone()
    values[2] = torch.nan
    assert not align("f", values, MASK, list("abc"), tuple("abc")).values[2].any()


@pytest.mark.parametrize("content", [b"", b"x" * 30])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "image.safetensors"
    with pytest.raises(InputError, match=r"is missing; run 'kgc features"):
        read_vectors(path, IDS)
    path.write_bytes(content)
    with pytest.raises(InputError, match="holds no vectors"):
        read_vectors(path, IDS)
    save_file({"values": VALUES}, path)
    with pytest.raises(InputError, match="holds no vectors"):
        read_vectors(path, IDS)


def test_a_damaged_file_is_made_anew(pictured: Path) -> None:
    path = vectors_path(pictured, "image")
    write_vectors(path, IDS, Vectors(torch.ones(9, 2), torch.ones(9, dtype=torch.bool)), {})
    path.write_bytes(path.read_bytes()[:20])
    assert make.make_image_vectors(pictured, ImageStatistics(), show_progress=False).width == 163


def published(folder: Path, count: int = 9) -> tuple[Path, Path]:
    matrix = torch.arange(count * 3, dtype=torch.float32).reshape(count, 3)
    matrix[0] = 0
    torch.save(matrix, folder / "m.pth")
    (folder / "entity2id.txt").write_text(f"{count}\n" + "".join(
        f"http://host/e{count - 1 - row}\t{row}\n" for row in range(count)))
    return folder / "m.pth", folder / "entity2id.txt"


def test_a_published_matrix_gets_its_ids(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    matrix, rows = published(tmp_path)
    assert main(["features", str(tiny), "--modality", "image", "--image-matrix", str(matrix),
                 "--rows", str(rows), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["vectors"] == 8
    found = read_vectors(vectors_path(tiny, "image"), read_graph(tiny).entity_ids)
    assert found.values[0].tolist() == [24, 25, 26]
    assert found.mask.tolist() == [True] * 8 + [False]


def nan(folder: Path) -> None:
    torch.save(torch.full((9, 3), torch.nan), folder / "m.pth")


def rewrite(text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "entity2id.txt").write_text(text)


@pytest.mark.parametrize("spoil, sentence", [
    (lambda folder: torch.save({"a": 1}, folder / "m.pth"), "holds a dict"),
    (lambda folder: torch.save(Path("x"), folder / "m.pth"), "cannot be read as a tensor"),
    (lambda folder: (folder / "m.pth").write_bytes(b"x"), "cannot be read as a tensor"),
    (lambda folder: torch.save(torch.ones(8, 3), folder / "m.pth"), "names 9 rows"),
    (nan, "'e8' holds NaN"),
    (rewrite("e0\t0\ne1\t0\n"), "line 2: not an identifier and a row of its own"),
    (rewrite("e0\t0\ne1\t2\n"), "the rows are not 0 … 1"),
    (rewrite("zero\n"), "line 1: not an identifier"),
    (lambda folder: (folder / "entity2id.txt").unlink(), "cannot be read"),
])
def test_a_published_matrix_that_does_not_fit_is_refused(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Path], object], sentence: str
) -> None:
    matrix, rows = published(tmp_path)
    spoil(tmp_path)
    assert main(["features", str(tiny), "--modality", "image", "--image-matrix", str(matrix),
                 "--rows", str(rows)]) == 2
    assert sentence in capsys.readouterr().err
