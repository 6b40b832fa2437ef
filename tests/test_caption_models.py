"""Captioning with models of transformers: small random ones of the real classes, from disk."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from PIL import Image
from test_caption_build import make_dataset
from transformers import AutoModelForImageTextToText, AutoProcessor

from caption_cache import cli
from caption_cache.captioners import Judge, Refusal, Request, YesNo
from caption_cache.captioners.checkpoints import find_revision, load_config
from caption_cache.captioners.hugging_face import (
    TransformersCaptioner,
    TransformersOptions,
    _workable,
)
from caption_cache.errors import InputError
from caption_cache.images import decode
from caption_cache.store import Store

REQUESTS = [Request((image,), question) for image, question in [
    (Image.new("RGB", (20, 30), "red"), "this is a"),
    (Image.new("RGB", (40, 20), "blue"), "this image shows one more thing, and a red one?"),
    (Image.effect_noise((64, 64), 90).convert("RGB"), "more"),
    (Image.new("RGB", (1, 1), "green"), "what"),
    (Image.new("RGB", (1, 3000), "green"), "what now"),
]]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """So small models are slower with several."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One folder a model, made once; tests must not change them."""
    top = tmp_path_factory.mktemp("models")
    return {name: make(top / name) for name, make in tiny_models.MODELS.items()}


def captioner(folder: Path, **options: Any) -> TransformersCaptioner:
    return TransformersCaptioner(TransformersOptions(
        **{"model": str(folder), "dtype": "float32", "max_new_tokens": 6, **options}))


def plainly(folder: Path, request: Request, name: str) -> str:
    """One text by what the documentation of the model class tells to write."""
    if name == "qwen2.5-vl":
        processor = tiny_models.ImagesOnly.from_pretrained(folder, backend="pil")
    else:
        processor = AutoProcessor.from_pretrained(folder, backend="pil")
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    image, text = _workable(request.images[0]), request.prompt
    if processor.chat_template:
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": [{"type": "image", "image": image},
                                          {"type": "text", "text": text}]}],
            add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt")
    else:
        around = {"blip-2-opt": "Question: {} Answer:", "blip-2-t5": "Question: {} Answer:",
                  "instructblip": "{}", "llava-without-template": "USER: <image>\n{} ASSISTANT:"}
        inputs = processor(images=image, text=around[name].format(text), return_tensors="pt")
    tokens = model.generate(**inputs, do_sample=False, temperature=None, top_p=None, top_k=None,
                            max_new_tokens=6)[0]
    if name not in ("blip-2-t5", "instructblip"):
        tokens = tokens[inputs["input_ids"].shape[1]:]
    return str(processor.tokenizer.decode(tokens, skip_special_tokens=True)).strip()


@pytest.mark.parametrize("name", tiny_models.MODELS)
def test_texts_are_the_models_own_whatever_else_is_in_the_batch(
    folders: dict[str, Path], name: str
) -> None:
    engine = captioner(folders[name])
    texts = engine.caption(REQUESTS)
    assert texts == [plainly(folders[name], request, name) for request in REQUESTS]
    assert len(set(texts)) > 1, "image and question must matter"
    assert isinstance(engine, Judge)
    together, alone = engine.judge(REQUESTS), [engine.judge([r])[0] for r in REQUESTS]
    for one, other in zip(together, alone, strict=True):
        assert isinstance(one, YesNo)
        assert one == pytest.approx(other, rel=1e-3)
        assert 0 < one.yes < 1
        assert 0 < one.no < 1


def test_yes_and_no_are_read_at_the_first_token(folders: dict[str, Path]) -> None:
    engine = captioner(folders["llava"])
    tokenizer, model = engine._processor.tokenizer, engine._model
    head = model.get_output_embeddings()
    for words, chosen in (("Yes yes", "yes"), ("No no", "no")):
        ids = [tokenizer(word, add_special_tokens=False).input_ids for word in words.split()]
        assert [len(each) for each in ids] == [1, 1]
        with torch.no_grad():
            before = head.weight.clone()
            for [token] in ids:  # all the probability for the two spellings together
                head.weight[token] = before.norm() * model_direction(engine)
        answer = engine.judge(REQUESTS[:1])[0]
        with torch.no_grad():
            head.weight.copy_(before)
        assert isinstance(answer, YesNo)
        assert getattr(answer, chosen) > 0.99, answer


def model_direction(engine: TransformersCaptioner) -> torch.Tensor:
    """The last hidden state of the first request, of length 1."""
    seen: list[torch.Tensor] = []
    hook = engine._model.get_output_embeddings().register_forward_pre_hook(
        lambda module, arguments: seen.append(arguments[0][0, -1]))
    engine.judge(REQUESTS[:1])
    hook.remove()
    return seen[0] / seen[0].norm()


def test_several_images_of_one_request_are_all_shown(folders: dict[str, Path]) -> None:
    red, blue = REQUESTS[0].images[0], REQUESTS[1].images[0]
    requests = [Request(shown, "more") for shown in ((red, blue), (blue, red), (red, red), (red,))]
    for name in ("llava", "llava-without-template", "qwen2.5-vl"):
        engine = captioner(folders[name])
        assert len(set(engine.judge(requests))) == 4, name
        assert len(engine.caption(requests)) == 4
    with pytest.raises(InputError, match="takes one image at a time"):
        captioner(folders["instructblip"]).caption(requests)


def count_batches(engine: TransformersCaptioner, fitting: int) -> list[int]:
    """Let the model find memory for so many requests only; gives the sizes it was asked for."""
    sizes: list[int] = []
    generate = engine._model.generate

    def tight(**inputs: Any) -> Any:
        sizes.append(len(inputs["input_ids"]))
        if sizes[-1] > fitting:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return generate(**inputs)

    engine._model.generate = tight
    return sizes


def test_batches_are_halved_until_they_fit(folders: dict[str, Path]) -> None:
    expected = captioner(folders["llava"]).caption(REQUESTS)
    engine = captioner(folders["llava"])
    sizes = count_batches(engine, fitting=2)
    assert engine.caption(REQUESTS) == expected
    assert sizes == [5, 2, 2, 1]
    assert engine.caption(REQUESTS) == expected
    assert sizes[4:] == [2, 2, 1], "what fitted is remembered"


def test_single_requests_without_memory_are_refused_and_then_end_the_build(
    folders: dict[str, Path]
) -> None:
    engine = captioner(folders["llava"])
    count_batches(engine, fitting=0)
    assert engine.caption(REQUESTS[:2]) == [Refusal.MEMORY, Refusal.MEMORY]
    with pytest.raises(InputError, match=r"no memory even for single requests; quantise it"):
        engine.caption(REQUESTS[:1])


def test_batches_are_halved_too_where_preparing_them_takes_the_memory(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = captioner(folders["llava"])
    expected, prepare, sizes = engine.caption(REQUESTS), engine._prepare, []

    def tight(requests: Sequence[Request]) -> Any:
        sizes.append(len(requests))
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return prepare(requests)

    monkeypatch.setattr(engine, "_prepare", tight)
    assert engine.caption(REQUESTS) == expected
    assert sizes == [5, 2, 2, 1]


def test_other_errors_of_the_model_are_bugs(folders: dict[str, Path]) -> None:
    engine = captioner(folders["llava"])

    def broken(**inputs: Any) -> None:
        raise RuntimeError("size mismatch")

    engine._model.generate = broken
    with pytest.raises(RuntimeError, match="size mismatch"):
        engine.caption(REQUESTS)


def test_what_the_processor_refuses_is_refused_alone(folders: dict[str, Path]) -> None:
    engine = captioner(folders["llava"])
    expected = engine.caption(REQUESTS[:2])
    odd = Request(REQUESTS[0].images, "how many <image> are there?")  # one placeholder too many
    assert engine.caption([REQUESTS[0], odd, REQUESTS[1]]) == [
        expected[0], Refusal.UNPREPARED, expected[1]]


def test_greedy_by_default_and_drawn_texts_depend_on_seed_and_request_alone(
    folders: dict[str, Path]
) -> None:
    greedy = captioner(folders["llava"])
    assert greedy.caption(REQUESTS) == greedy.caption(REQUESTS)
    drawn = captioner(folders["llava"], temperature=2.0)
    texts = drawn.caption(REQUESTS)
    assert texts != greedy.caption(REQUESTS)
    assert drawn.caption(REQUESTS[::-1]) == texts[::-1]
    assert captioner(folders["llava"], temperature=2.0, seed=1).caption(REQUESTS) != texts


def test_identity_holds_what_determines_the_texts(folders: dict[str, Path], tmp_path: Path) -> None:
    original = captioner(folders["llava"]).identity
    assert (original.captioner, original.model, original.back_end) == (
        "transformers", "llava", "pil")
    moved = tmp_path / "elsewhere" / "llava"
    shutil.copytree(folders["llava"], moved)
    assert captioner(moved).identity == original, "a place is no part of what a model says"
    assert captioner(moved, batch_size=2, device_map="cpu").identity == original
    for changed in ({"max_new_tokens": 7}, {"num_beams": 2}, {"dtype": "bfloat16"},
                    {"temperature": 1.0}, {"repetition_penalty": 1.5},
                    {"quantization": '{"load_in_8bit": true}'}):
        assert captioner(moved, **changed).identity != original
    for changed in ({"seed": 1}, {"top_p": 0.5}):
        assert captioner(moved, **changed).identity == original, "nothing is drawn"
        assert captioner(moved, temperature=1.0, **changed).identity != captioner(
            moved, temperature=1.0).identity
    bare = folders["llava-without-template"]
    assert captioner(bare, prompt_format="{images}{prompt}").identity != captioner(bare).identity
    assert captioner(moved, max_new_tokens=7).judge_identity == captioner(moved).judge_identity
    for name in ("README.md", "LICENSE.txt"):
        (moved / name).write_text("about")
    assert captioner(moved).identity == original
    (moved / "merges.txt").write_text("a b")  # of some tokenizers
    assert captioner(moved).identity.revision != original.revision
    (moved / "merges.txt").unlink()
    weights = moved / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert captioner(moved).identity.revision != original.revision


def test_revision_of_a_hub_model_is_its_commit(folders: dict[str, Path]) -> None:
    config = load_config(str(folders["llava"]), "main")
    config._commit_hash = "0123abc"
    assert find_revision("some/model", config, "main") == "0123abc"


def test_weights_load_with_the_first_text_only(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", None)
    assert captioner(folders["llava"]).identity.revision.startswith("files-")


def test_bfloat16_is_the_default_and_reaches_the_weights(folders: dict[str, Path]) -> None:
    engine = TransformersCaptioner(TransformersOptions(model=str(folders["qwen2.5-vl"])))
    assert engine.caption(REQUESTS[:1])
    assert engine._model.dtype == torch.bfloat16


def set_json(file: str, **changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / file
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return change


def drop_weights(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["language_model.model.decoder.layers.0.fc1.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(("name", "change", "message"), [
    ("blip-2-opt", set_json("config.json", image_token_index=None),
     "old checkpoint without image_token_index in config.json"),
    ("blip-2-t5", set_json("processor_config.json", num_query_tokens=None),
     "old checkpoint without num_query_tokens in processor_config.json"),
    ("instructblip", set_json("processor_config.json", num_query_tokens=5),
     "num_query_tokens is 5 in processor_config.json but 4 in config.json"),
    ("blip-2-opt", set_json("config.json", image_token_index=7),
     "'<image>' has the id 3 in the tokenizer but 7 in config.json"),
    ("llava", set_json("processor_config.json", patch_size=None),
     "old checkpoint without patch_size in processor_config.json"),
    ("blip-2-opt", drop_weights, "lacks 1 of the model's weights, such as"),
    ("llava", lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 99),
     "cannot be loaded as an image-text model"),
    ("llava", lambda folder: (folder / "config.json").write_text("{"),
     "cannot be loaded as an image-text model"),
], ids=["no-image-token", "no-queries", "other-queries", "other-image-token", "no-patch-size",
        "missing-weights", "damaged-weights", "damaged-config"])
def test_checkpoint_that_would_caption_junk_is_refused(
    folders: dict[str, Path], tmp_path: Path, name: str, change: Callable[[Path], object],
    message: str,
) -> None:
    folder = tmp_path / name
    shutil.copytree(folders[name], folder)
    change(folder)
    with pytest.raises(InputError, match=message) as error:
        captioner(folder).caption(REQUESTS[:1])
    assert "\n" not in str(error.value)


def test_other_models_are_refused(tmp_path: Path) -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    tokenizer = tiny_models.make_tokenizer()
    T5ForConditionalGeneration(tiny_models.make_t5(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="image-text model"):
        captioner(tmp_path).caption(REQUESTS[:1])
    assert T5Config.model_type == "t5"
    with pytest.raises(InputError, match="nowhere cannot be loaded as an image-text model"):
        captioner(tmp_path / "nowhere").caption(REQUESTS[:1])


@pytest.mark.parametrize(("options", "message"), [
    ({"batch_size": 0}, "--batch-size is 0"), ({"num_beams": 0}, "--num-beams is 0"),
    ({"max_new_tokens": 0}, "--max-new-tokens is 0"), ({"temperature": -1.0}, "--temperature"),
    ({"top_p": 0.0}, "--top-p"), ({"repetition_penalty": 0.0}, "--repetition-penalty"),
    ({"quantization": "4bit"}, "--quantization is no JSON object"),
    ({"quantization": "[1]"}, "--quantization is no JSON object"),
    ({"prompt_format": "{images}"}, "--prompt-format lacks {prompt}"),
])
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TransformersOptions(**{"model": "m", **options})


def test_unknown_quantization_is_refused(folders: dict[str, Path]) -> None:
    engine = captioner(folders["llava"], quantization='{"quant_method": "magic"}')
    with pytest.raises(InputError, match="Unknown quantization type, got magic"):
        engine.caption(REQUESTS[:1])


@pytest.mark.parametrize(("size", "workable"), [
    ((640, 480), (640, 480)), ((32, 32), (32, 32)), ((1, 1), (32, 32)), ((3, 200), (33, 2200)),
    ((2, 3000), (32, 3000)), ((9000, 40), (9000, 90)),
])
def test_sides_too_short_for_processors_are_mended(
    size: tuple[int, int], workable: tuple[int, int]
) -> None:
    assert _workable(Image.new("RGB", size)).size == workable




# --- from the command line -------------------------------------------------------------------


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Four entities, of which three have an image, linked to a chain."""
    folder = make_dataset(tmp_path / "data", 4)
    (folder / "images/e3/a.png").unlink()
    (folder / "images/e3").rmdir()
    (folder / "relations.tsv").write_text("id\tname\nnear\tnear\n")
    (folder / "train.tsv").write_text("head\trelation\ttail\ne0\tnear\te1\ne1\tnear\te2\n"
                                      "e2\tnear\te3\n")
    return folder


def call(capsys: pytest.CaptureFixture[str], *words: object) -> Any:
    code = cli.main([*map(str, words), "--json"])
    out, err = capsys.readouterr()
    assert code == 0, err
    return json.loads(out)


@pytest.mark.parametrize("name", ["blip-2-t5", "llava", "qwen2.5-vl"])
def test_build_with_a_model_from_disk(
    folders: dict[str, Path], dataset: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    model = ("--captioner", "transformers", "--model", folders[name], "--dtype", "float32",
             "--max-new-tokens", 6, "--batch-size", 2)
    report = call(capsys, "build", dataset, *model)
    assert (report["items"], report["captioned"], report["left"]) == (3, 3, 0)
    rows = Store(dataset).read().to_pylist()
    assert {(row["captioner"], row["model"], row["back_end"]) for row in rows} == {
        ("transformers", name, "pil")}
    assert all(row["status"] == "ok" or row["reason"] for row in rows)
    assert json.loads(rows[0]["settings"])["dtype"] == "float32"
    for row in rows:
        request = Request((decode((dataset / row["images"][0]).read_bytes()),), row["prompt"])
        assert row["text"] == plainly(folders[name], request, name)
    assert call(capsys, "build", dataset, *model)["captioned"] == 0
    longer = call(capsys, "build", dataset, *model, "--max-new-tokens", 8)
    assert (longer["captioned"], longer["done_before"]) == (3, 0)


def test_pairs_are_judged_and_captioned_by_a_model_from_disk(
    folders: dict[str, Path], dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ("--captioner", "transformers", "--model", folders["qwen2.5-vl"], "--dtype",
             "float32", "--max-new-tokens", 6)
    report = call(capsys, "build", dataset, *model, "--scope", "pair")
    rows = Store(dataset).read().to_pylist()
    yes = {(row["entity"], row["images"][0]) for row in rows
           if row["scope"] == "relevance" and row["text"].startswith("yes")}
    assert report["judged"] == len([row for row in rows if row["scope"] == "relevance"]) == 8
    owners = {"e0": ["images/e0/a.png"], "e1": ["images/e1/a.png"], "e2": ["images/e2/a.png"]}
    expected = {(*pair, image) for pair in (("e0", "e1"), ("e1", "e2"), ("e2", "e3"))
                for image in owners.get(pair[0], []) + owners.get(pair[1], [])
                if all((entity, image) in yes for entity in pair)}
    assert expected
    assert {(row["entity"], row["neighbour"], row["images"][0])
            for row in rows if row["scope"] == "pair"} == expected
    again = call(capsys, "build", dataset, *model, "--scope", "pair", "--max-new-tokens", 7)
    assert (again["judged"], again["captioned"]) == (0, report["captioned"])
    summary = call(capsys, "build", dataset, *model, "--scope", "summary", "--keep-all")
    assert (summary["items"], summary["judged"]) == (3, 0)
