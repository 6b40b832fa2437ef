"""A run taken elsewhere: complete, without pickles, with a card that says how good it is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from conftest import ROOT
from huggingface_hub import ModelCard
from PIL import Image

from caption_cache.build import build
from caption_cache.captioners import Identity, load_captioner
from caption_cache.captions import read_captions, read_link_captions
from caption_cache.errors import InputError
from caption_cache.images import content_hash
from caption_cache.source import Source
from caption_cache.store import Row, Store
from kgc_seq2seq import cli, export, hub, train
from kgc_seq2seq.completer import Completer, Query
from kgc_seq2seq.config import RunConfig
from kgc_seq2seq.export import export_run, push_to_hub
from kgc_seq2seq.model_card import model_card


@pytest.fixture(scope="module")
def exported(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exports") / "nations"
    export_run(trained, folder, name="someone/nations", licence="apache-2.0")
    return folder


def test_the_exported_folder_answers_by_itself(
    exported: Path, trained: Path, tmp_path: Path
) -> None:
    """In another process, moved, with nothing else of the run or its data set in reach."""
    moved = tmp_path / "elsewhere"
    shutil.copytree(exported, moved)
    done = subprocess.run(
        [sys.executable, "-m", "kgc_seq2seq.cli", "predict", str(moved), "--head", "France",
         "--relation", "currency", "-k", "5", "--json"],
        capture_output=True, text=True, cwd=tmp_path, timeout=120,
        env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    expected = Completer.from_pretrained(trained).complete(Query("France", "currency"), 5)
    answers = json.loads(done.stdout)["answers"]
    assert [answer["id"] for answer in answers] == [answer.id for answer in expected]
    # Captions are in what it reads, so equal numbers say that they went along.
    assert [answer["log_probability"] for answer in answers] == pytest.approx(
        [answer.log_probability for answer in expected], abs=1e-5)


def test_captions_go_along_in_their_order_and_only_where_they_are_read(
    tiny: Path, tmp_path: Path
) -> None:
    for colour, name in (("red", "a"), ("blue", "b")):
        (tiny / "images" / "e0").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9), colour).save(tiny / "images" / "e0" / f"{name}.png")
    build(tiny, load_captioner("palette"), show_progress=False)
    (tiny / "images" / "e0" / "a.png").rename(tiny / "images" / "e0" / "z.png")  # costs nothing
    said = read_captions(tiny).texts["e0"]
    assert said.index("blue") < said.index("red")
    for run, captions in (("reads", True), ("reads-none", False)):
        assert train.main([
            "--dataset", str(tiny), "--out", str(tmp_path / run), "--input.captions",
            str(captions).lower(), "--model.d_model", "16", "--model.d_ff", "16",
            "--model.num_heads", "2", "--tokenizer.pieces", "80", "--tokenizer.words", "20",
            "--training.steps", "2", "--training.batch_size", "4"]) == 0
        export_run(tmp_path / run, tmp_path / f"{run}-exported")
    assert read_captions(tmp_path / "reads-exported" / "dataset").texts == {"e0": said}
    assert not (tmp_path / "reads-none-exported" / "dataset" / "captions").exists()


def test_captions_of_pairs_go_along_in_their_order(tiny: Path, tmp_path: Path) -> None:
    """Whatever their images are called."""
    (tiny / "images").mkdir()
    (tiny / "images.tsv").write_text("entity\tpath\ne0\timages/z.png\ne1\timages/a.png\n")
    source = Source(Identity("vlm", "m", "r"), "pair-1", "x")
    with Store(tiny).writing() as store:
        for name in "az":
            image = tiny / "images" / f"{name}.png"
            image.write_bytes(name.encode())
            digest = content_hash(name.encode())
            store.add([Row(
                key=source.key("q", [digest]), scope="pair", entity="e0", neighbour="e1",
                relation=None, images=[f"images/{name}.png"], image_hashes=[digest], prompt="q",
                text=f"shows {name}", status="ok", reason=None, seconds=0.0, **source.columns)])
    said = read_link_captions(tiny, "pair").texts
    assert said["e0", "e1"] == "shows z | shows a"
    assert train.main([
        "--dataset", str(tiny), "--out", str(tmp_path / "run"), "--input.caption_scopes",
        "[pair]", "--model.d_model", "16", "--model.d_ff", "16", "--model.num_heads", "2",
        "--tokenizer.pieces", "80", "--tokenizer.words", "20", "--training.steps", "2",
        "--training.batch_size", "4"]) == 0
    export_run(tmp_path / "run", tmp_path / "exported")
    assert read_link_captions(tmp_path / "exported" / "dataset", "pair").texts == said


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run, to change."""
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["dataset"] = str((trained / config["dataset"]).resolve())
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    return run


@pytest.mark.parametrize("model, shown", [
    ("t5-small", "t5-small"), ("google/t5-v1_1-small", "google/t5-v1_1-small"),
    ("/home/me/t5", "./t5"), ("../client/t5", "./t5"), ("a/b/c", "./c"), ("./t5", "./t5")])
def test_a_folder_is_called_by_its_own_name_and_never_like_a_model_of_the_hub(
    model: str, shown: str
) -> None:
    assert hub.shared_name(model) == shown


def test_the_card_names_the_budget_of_a_step(copied: Path) -> None:
    assert "; 32 examples a step." in model_card(copied, "me/mine", None)
    config = yaml.safe_load((copied / "config.yaml").read_text())
    config["training"]["batch_tokens"] = 4096
    (copied / "config.yaml").write_text(yaml.safe_dump(config))
    assert "; at most 4,096 tokens a step." in model_card(copied, "me/mine", None)


def test_nobody_learns_in_which_folder_a_model_lay(copied: Path, tmp_path: Path) -> None:
    config = yaml.safe_load((copied / "config.yaml").read_text())
    config["model"] |= {"init": "pretrained", "pretrained": str(tmp_path / "mine" / "t5-small")}
    (copied / "config.yaml").write_text(yaml.safe_dump(config))
    export_run(copied, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    # Of that name another may be on the hub.
    assert "fine-tuned from `./t5-small`" in card and "base_model" not in card
    assert RunConfig.load(tmp_path / "out" / "config.yaml").model.pretrained == "./t5-small"
    export_run(tmp_path / "out", tmp_path / "again" / "out")
    assert (tmp_path / "again" / "out" / "README.md").read_text() == card
    assert not [path for path in (tmp_path / "out").rglob("*")
                if path.is_file() and str(tmp_path).encode() in path.read_bytes()]


def test_the_card_leaves_out_a_valid_that_was_never_ranked(copied: Path) -> None:
    def forget(split: str) -> None:
        for path in (copied / "results").glob(f"{split}*"):
            path.unlink()

    assert "| valid | head" in model_card(copied, "me/mine", None)
    forget("valid")
    card = model_card(copied, "me/mine", None)
    assert "| test | head" in card and "| valid |" not in card
    forget("test")
    with pytest.raises(InputError, match="--split test"):
        model_card(copied, "me/mine", None)


def test_the_exported_folder_holds_what_it_needs_and_no_more(exported: Path) -> None:
    files = [path for path in exported.rglob("*") if path.is_file()]
    assert all(any(path.match(kept) for kept in hub.KEPT) for path in files)
    assert {path.suffix for path in files if path.stat().st_size > 10**6} <= {".safetensors"}
    assert {path.name for path in exported.iterdir()} == {
        "README.md", "config.yaml", "dataset", "metrics.jsonl", "model", "relations.json",
        "results", "tokenizer", "training.json", "trie.safetensors"}
    assert yaml.safe_load((exported / "config.yaml").read_text())["dataset"] == "dataset"


def test_an_exported_run_can_be_evaluated_and_exported_again(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["export", str(exported), str(tmp_path / "again"), "--license", "mit"]) == 0
    assert "kgc predict" in capsys.readouterr().out
    before = json.loads((exported / "results" / "valid.json").read_text())
    assert cli.main(["evaluate", str(tmp_path / "again"), "--split", "valid", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["both"] == pytest.approx(before["both"])


def test_the_card_holds_metrics_protocol_data_and_use(exported: Path) -> None:
    card = ModelCard.load(exported / "README.md")
    result = json.loads((exported / "results" / "test.json").read_text())
    found = {(entry.dataset_split, entry.metric_type): entry.metric_value
             for entry in card.data.eval_results}
    assert found["test", "mrr"] == pytest.approx(result["both"]["mrr"], abs=1e-4)
    assert found["test", "hits@10"] == pytest.approx(result["both"]["hits@10"], abs=1e-4)
    assert (card.data.license, card.data.library_name) == ("apache-2.0", "kgc-seq2seq")
    assert "multimodal" in card.data.tags
    row = next(line for line in card.text.splitlines() if line.startswith("| test | head"))
    assert [cell.strip() for cell in row.split("|")[3:-1]] == [
        f"{result['head'][metric]:.4f}" for metric in ("mrr", "hits@1", "hits@3", "hits@10", "mr")
    ] + ["404"]
    for said in ("Completer.from_pretrained('someone/nations')", "Ranks are exact among all 881",
                 "filtered by the facts of train, valid, test", "realistic rank",
                 "licence: Apache-2.0", "One seed: 0", "trained from scratch"):
        assert said in card.text


def test_the_use_that_the_card_shows_works(
    exported: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = {}

    def download(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.update(name=name, revision=revision, allow_patterns=allow_patterns)
        return str(exported)

    monkeypatch.setattr(hub, "snapshot_download", download)
    text = (exported / "README.md").read_text()
    exec(text.split("```python\n")[1].split("```")[0], {})
    assert len(capsys.readouterr().out.splitlines()) == 5
    assert asked == {"name": "someone/nations", "revision": None,
                     "allow_patterns": list(hub.KEPT)}
    assert not {"*", "*.bin", "*.pt", "*.pkl"} & set(hub.KEPT)
    Completer.from_pretrained("someone/nations", revision="v2")
    assert asked["revision"] == "v2"


class Hub:
    """Stands where the hub's API is; what is uploaded is kept."""

    def __init__(self, keep: Path) -> None:
        self.keep = keep
        self.made: dict[str, Any] = {}

    def __call__(self) -> Hub:
        return self

    def create_repo(self, name: str, **how: Any) -> None:
        if name == "refused/name":
            raise OSError("401 Unauthorized\nlog in first")
        self.made[name] = how

    def upload_folder(self, *, repo_id: str, folder_path: Path, **how: Any) -> SimpleNamespace:
        assert how["delete_patterns"] == [
            f"{part}/*" for part in ("dataset", "model", "parts", "results", "tokenizer")]
        shutil.copytree(folder_path, self.keep / repo_id)
        return SimpleNamespace(commit_url=f"https://hub.invalid/{repo_id}/commit/1")


def test_what_is_pushed_is_what_is_exported(
    trained: Path, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str]
) -> None:
    api = Hub(tmp_path)
    monkeypatch.setattr(export, "HfApi", api)
    assert cli.main(["push", str(trained), "someone/nations", "--private", "--license",
                     "apache-2.0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["address"].endswith("someone/nations/commit/1")
    assert api.made == {"someone/nations": {"private": True, "exist_ok": True}}
    pushed = tmp_path / "someone" / "nations"
    assert (pushed / "README.md").read_text() == (exported / "README.md").read_text()
    names = {str(path.relative_to(pushed)) for path in pushed.rglob("*.*")
             if path.suffix != ".parquet"}
    assert names == {str(path.relative_to(exported)) for path in exported.rglob("*.*")
                     if path.suffix != ".parquet"}
    with pytest.raises(InputError, match=r"refused/name cannot be uploaded \(401 Unauthorized\)"):
        push_to_hub(trained, "refused/name")


def test_what_cannot_be_exported_is_refused(
    trained: Path, exported: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="is there already"):
        export_run(trained, exported)
    with pytest.raises(InputError, match="is not the folder of a run"):
        export_run(tmp_path, tmp_path / "out")
    unfinished = tmp_path / "unfinished"
    shutil.copytree(exported, unfinished, ignore=shutil.ignore_patterns("test.json"))
    with pytest.raises(InputError, match=r"test\.json is missing; run 'kgc evaluate"):
        export_run(unfinished, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_on_the_hub_is_not_calibrated(
    exported: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hub, "snapshot_download", lambda name, **how: str(exported))
    assert cli.main(["calibrate", "someone/nations"]) == 2
    assert "is not the folder of a run" in capsys.readouterr().err


def test_a_name_that_the_hub_does_not_know_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["predict", "nobody/nothing", "--head", "a", "--relation", "b"]) == 2
    sentence = capsys.readouterr().err
    assert "nobody/nothing is no folder, and the hub gives no run of that name (" in sentence
    assert len(sentence.strip().splitlines()) == 1
