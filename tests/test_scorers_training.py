"""Training a scorer through its command line: exact resume, honest selection, refusals."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch
import yaml
from conftest import ROOT, checkpoint, lines, noted, stop_at

from kgc_seq2seq.graph.folder import read_graph
from kgc_seq2seq.scorers.corruption import Corruptions
from kgc_seq2seq.scorers.features.choose import FeatureChoice, make_vectors
from kgc_seq2seq.scorers.rotate import RotatE
from kgc_seq2seq.scorers.scorer import EntityScorer
from kgc_seq2seq.train_scorer import main

SMALL = {
    "complex": ["--model.dim", "4", "--model.n3", "0.1", "--model.dropout", "0.1"],
    "rotate": ["--model.dim", "4", "--model.gamma", "4", "--model.sampling.negatives", "5",
               "--model.sampling.entropy", "added"],
}


def arguments(scorer: str, dataset: Path, out: Path, *more: str) -> list[str]:
    return ["--scorer", scorer, "--dataset", str(dataset), "--out", str(out), *SMALL[scorer],
            "--optimizer.name", "adamw", "--optimizer.learning_rate", "0.05",
            "--training.steps", "12", "--training.batch_size", "4", "--training.log_every", "1",
            "--training.validate_every", "5", "--training.checkpoint_every", "4", *more]


@pytest.mark.parametrize("scorer", SMALL)
def test_stopping_and_going_on_changes_no_bit(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], scorer: str
) -> None:
    assert main(arguments(scorer, tiny, tmp_path / "whole", "--json")) == 0
    whole = json.loads(capsys.readouterr().out)
    parts = arguments(scorer, tiny, tmp_path / "parts", "--json")
    stop_at(7, monkeypatch)
    assert main(parts) == 3
    assert json.loads(capsys.readouterr().out) == {"stopped_after_step": 8}
    monkeypatch.undo()
    assert main(parts) == 0
    again = json.loads(capsys.readouterr().out)
    one, other = checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "parts")
    assert all(torch.equal(one[name], other[name]) for name in one)
    losses = [[(line["step"], line["loss"]) for line in lines(tmp_path / run) if "loss" in line]
              for run in ("whole", "parts")]
    assert losses[0] == losses[1]
    assert {**whole, "protocol": 0} == {**again, "protocol": 0}


def test_a_step_knows_its_epoch_and_how_much_is_done(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    epochs, done = list[int](), list[float]()
    draw, loss = Corruptions.__call__, RotatE.loss
    monkeypatch.setattr(Corruptions, "__call__", lambda self, examples, epoch: (
        epochs.append(epoch), draw(self, examples, epoch))[1])
    monkeypatch.setattr(RotatE, "loss", lambda self, batch: (
        done.append(float(batch["done"])), loss(self, batch))[1])
    assert main(arguments("rotate", tiny, tmp_path / "run")) == 0
    assert epochs == noted(tmp_path / "run", "epoch")
    assert len(set(epochs)) > 1
    assert done == pytest.approx([step / 12 for step in range(12)])


@pytest.mark.parametrize("scorer", SMALL)
def test_a_compiled_scorer_learns_the_same(tiny: Path, tmp_path: Path, scorer: str) -> None:
    """Captured with dynamic shapes and run as captured, since inductor takes a minute."""
    words = ["--training.steps", "4"]
    assert main(arguments(scorer, tiny, tmp_path / "plain", *words)) == 0
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates what it calls itself
        torch._dynamo.utils.counters.clear()
        assert main(arguments(scorer, tiny, tmp_path / "compiled", *words,
                              "--training.compile", "eager")) == 0
    assert torch._dynamo.utils.counters["stats"]["calls_captured"] > 0
    one, other = checkpoint(tmp_path / "plain"), checkpoint(tmp_path / "compiled")
    assert all(torch.allclose(one[name], other[name], rtol=1e-4, atol=1e-5) for name in one)


def test_numbers_that_are_nearly_0_are_0_while_a_command_trains(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, seen = torch.tensor([1e-30]), []

    def note(*_: object, **__: object) -> None:
        seen.append(float(small * 1e-10))

    monkeypatch.setattr("kgc_seq2seq.train_scorer.train_scorer", note)
    assert main(arguments("complex", tiny, tmp_path / "run")) == 0
    assert seen == [0]
    assert float(small * 1e-10) > 0


def test_the_best_state_on_valid_is_kept_and_the_protocol_says_so(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(arguments("complex", tiny, run)) == 0
    assert capsys.readouterr().out.startswith("Test: filtered MRR ")
    scores = {line["step"]: line["valid_mrr"] for line in lines(run) if "valid_mrr" in line}
    result = json.loads((run / "results" / "valid.json").read_text())
    about = result["protocol"]
    assert about["system"] == "ComplEx-N3"
    assert about["selected_on"] == "filtered MRR on valid"
    assert scores[about["best_step"]] == max(scores.values())
    assert result["both"]["mrr"] == pytest.approx(max(scores.values()))
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["scorer"], config["model"]["dim"]) == ("complex", 4)
    assert EntityScorer.from_pretrained(run / "model", read_graph(tiny)).name == "complex"


def test_a_file_names_the_scorer_whose_keys_it_holds(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "c.yaml"
    config = {"dataset": str(tiny), "out": str(tmp_path / "run"), "scorer": "distmult",
              "model": {"dim": 3}, "optimizer": {"name": "adamw"},
              "training": {"steps": 2, "batch_size": 4}}
    path.write_text(yaml.safe_dump(config))
    assert main(["--config", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["protocol"]["system"] == "DistMult"
    config["model"] = {"gamma": 3}
    path.write_text(yaml.safe_dump(config))
    assert main(["--config", str(path)]) == 2
    assert "there is no key 'model.gamma'" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["nations-complex", "nations-distmult", "nations-lbmkgc",
                                  "nations-mocme", "nations-rotate", "mkg-w-lbmkgc"])
def test_the_configurations_that_come_along_are_valid(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """They are read, and the data set is refused."""
    assert main(["--config", str(ROOT / "configs" / f"{name}.yaml"), "--dataset",
                 str(tmp_path / "none"), "--out", str(tmp_path / "run")]) == 2
    assert "none is not a folder" in capsys.readouterr().err


@pytest.mark.parametrize("scorer", ["lbmkgc", "mocme"])
def test_a_multimodal_scorer_needs_vectors_and_keeps_them(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], scorer: str
) -> None:
    command = ["--scorer", scorer, "--dataset", str(tiny), "--out", str(tmp_path / "run"),
               "--model.dim", "4", "--model.sampling.negatives", "5", "--model.modalities",
               '["text"]', "--training.steps", "4", "--training.batch_size", "4",
               "--training.checkpoint_every", "2", "--json"]
    assert main(command) == 2
    assert f"text.safetensors is missing; run 'kgc features {tiny}' first" in (
        capsys.readouterr().err)
    make_vectors(tiny, FeatureChoice(dim=5), show_progress=False)
    assert main(command) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["protocol"]["system"] in ("LBMKGC", "MoCME (our reconstruction)")
    assert main(command) == 0  # a finished run is left as it is
    assert json.loads(capsys.readouterr().out) == result
    shutil.rmtree(tiny / "features")
    loaded = EntityScorer.from_pretrained(tmp_path / "run" / "model", read_graph(tiny))
    assert loaded.score(torch.tensor([0]), torch.tensor([3])).shape == (1, 9)


def test_the_nations_graph_gets_its_vectors_by_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(["--config", str(ROOT / "configs" / "nations-lbmkgc.yaml"), "--out", str(run),
                 "--model.dim", "8", "--training.steps", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["protocol"]["candidates"] == 881
    assert {path.name for path in (run / "dataset" / "features").iterdir()} == {
        "image.safetensors", "text.safetensors"}


@pytest.mark.parametrize("words, sentence", [
    (["--scorer", "nonsense"], "No scorer is called 'nonsense'"),
    (["--scorer", "rotate", "--model.dim", "0"], "model.dim is 0; give 1 or more"),
    (["--config", "/none.yaml"], "/none.yaml cannot be read"),
    (["--scorer"], "--scorer"),
    (["--optimizer.name", "sgd"], "optimizer.name"),
])
def test_mistakes_are_refused_in_one_sentence(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], sentence: str
) -> None:
    assert main(["--dataset", str(tiny), "--out", str(tmp_path / "run"), *words]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert sentence in printed.err
    assert len(printed.err.strip().split("\n")) == 1
