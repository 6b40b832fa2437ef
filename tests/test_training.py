"""The loop: exact resume, honest checkpoints, equal results however many processes share it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import islice, pairwise, takewhile
from pathlib import Path
from typing import NoReturn
from unittest.mock import patch

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from conftest import (
    ENVIRONMENT,
    ROOT,
    assert_learnt_alike,
    checkpoint,
    die_at,
    lines,
    random_graph,
    stop_at,
)
from hypothesis import given
from hypothesis import strategies as st
from test_scorers_training import arguments as scorer_arguments
from transformers import T5Config, T5EncoderModel

from caption_cache.errors import InputError
from caption_cache.prefetch import prefetch
from kgc_seq2seq import train, train_scorer
from kgc_seq2seq.config import RunConfig
from kgc_seq2seq.decoding.exact import ExactSearch
from kgc_seq2seq.evaluate import evaluate_run
from kgc_seq2seq.evaluation import ranking
from kgc_seq2seq.evaluation.kept import Kept
from kgc_seq2seq.evaluation.ranks import Ranks
from kgc_seq2seq.text.tokenizer import TokenizerConfig, train_tokenizer
from kgc_seq2seq.train import run_training
from kgc_seq2seq.training.batches import Batch, Batches, Examples, _cut
from kgc_seq2seq.training.checkpoints import differing_keys
from kgc_seq2seq.training.logs import TrainingLog
from kgc_seq2seq.training.loop import TrainingConfig
from kgc_seq2seq.training.model import ModelConfig, load_model, make_model
from kgc_seq2seq.training.optimizer import OptimizerConfig, learning_rate
from kgc_seq2seq.training_run import selection, validation_facts


def small(dataset: Path, out: Path, **training: int) -> RunConfig:
    settings = {"steps": 12, "batch_size": 4, "validate_every": 5, "checkpoint_every": 4,
                "log_every": 2, **training}
    return RunConfig(
        dataset=str(dataset), out=str(out), model=ModelConfig(d_model=16, d_ff=16, num_heads=2,
                                                              dropout=0.1),
        tokenizer=TokenizerConfig(pieces=60, words=20),
        training=TrainingConfig(**settings))


def without_captions(config: RunConfig) -> RunConfig:
    return replace(config, input=replace(config.input, captions=False))


small_windows = patch("kgc_seq2seq.training.batches.WINDOW", 4)


@given(st.integers(1, 60), st.integers(1, 20), st.integers(0, 9))
def test_an_epoch_is_a_permutation_and_a_step_a_function(n: int, size: int, seed: int) -> None:
    lengths = np.random.default_rng(seed).integers(1, 9, (n, 2))
    plan = batches(lambda epoch: lengths, size, seed)
    per_epoch = n // min(size, n)
    with small_windows:
        taken = list(islice(plan.after(0), 4 * per_epoch))
    assert [batch.step for batch in taken] == list(range(4 * per_epoch))
    assert [batch.epoch for batch in taken] == [step // per_epoch + 1 for step in range(len(taken))]
    for epoch in range(4):
        seen = np.concatenate([numbers(batch) for batch in taken[epoch * per_epoch :][:per_epoch]])
        assert len(set(seen.tolist())) == len(seen) == per_epoch * min(size, n)
    assert_found_again(taken, lambda: batches(lambda epoch: lengths, size, seed))


def batches(lengths: Callable[[int], np.ndarray], *arguments: int) -> Batches:
    """Of examples whose tensors are their numbers, in windows of few batches."""
    def read(examples: np.ndarray, epoch: int) -> Examples:
        return Examples(lengths(epoch)[examples], lambda rows, step: {
            "examples": torch.from_numpy(examples[rows])})

    return Batches(read, len(lengths(1)), *arguments)


def numbers(batch: Batch) -> np.ndarray:
    return batch.examples.batch(batch.rows, batch.step)["examples"].numpy()


def assert_found_again(taken: list[Batch], make: Callable[[], Batches]) -> None:
    """By the window of a step, and also by one that comes before."""
    last = taken[-1]
    for earlier in (last, taken[len(taken) // 2], taken[0]):
        with small_windows:
            again = next(make().after(last.step, earlier.window, earlier.window_step))
        assert (again.step, again.epoch, again.window, again.window_step) == (
            last.step, last.epoch, last.window, last.window_step)
        assert np.array_equal(numbers(again), numbers(last))


def test_batches_hold_examples_of_like_length_and_set_long_targets_apart() -> None:
    generator = np.random.default_rng(0)
    lengths = np.stack([generator.integers(1, 100, 8192),
                        np.where(generator.random(8192) < 0.1, 20, generator.integers(2, 5, 8192))],
                       axis=1)
    taken = list(islice(batches(lambda epoch: lengths, 32, 0).after(0), 256))
    inputs, targets = np.stack([lengths[numbers(batch)] for batch in taken]).transpose(2, 0, 1)
    assert np.mean(np.ptp(inputs, axis=1)) < 10
    # Only where the two kinds meet, once in a window, they share a batch.
    assert ((targets == 20).any(axis=1) & (targets < 20).any(axis=1)).sum() <= taken[-1].window + 1
    # Short targets are not sorted.
    short = targets[(targets < 20).all(axis=1)]
    assert (np.ptp(short, axis=1) == 2).mean() > 0.9


@given(st.integers(1, 16), st.integers(0, 99))
def test_the_last_batch_of_a_window_too_keeps_the_token_budget(least: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    lengths = np.sort(random.integers([20, 3], [60, 12], (random.integers(least, 400), 2)), axis=0)
    cuts = _cut(lengths, 72 * 32, least)  # 32 of the longest fit
    for start, end in pairwise(cuts.tolist()):
        assert end - start >= least
        assert lengths[start:end].max(axis=0).sum() * (end - start) <= 72 * 32
    assert (cuts[0], cuts[-1]) == (0, len(lengths))


@given(st.integers(1, 60), st.integers(1, 200), st.integers(0, 9))
def test_a_token_budget_holds_and_every_epoch_has_every_example(
    n: int, tokens: int, seed: int
) -> None:
    """Lengths, and so the number of batches, differ from epoch to epoch."""
    def lengths(epoch: int) -> np.ndarray:
        return np.random.default_rng([seed, epoch]).integers(1, 40, (n, 2))

    with small_windows:
        taken = list(takewhile(lambda batch: batch.epoch <= 3,
                               batches(lengths, 1, seed, tokens).after(0)))
    for epoch in (1, 2, 3):
        chosen = [numbers(batch) for batch in taken if batch.epoch == epoch]
        assert sorted(np.concatenate(chosen).tolist()) == list(range(n))
        for rows in chosen:
            assert len(rows) == 1 or (
                len(rows) * lengths(epoch)[rows].max(axis=0).sum() <= tokens)
    assert_found_again(taken, lambda: batches(lengths, 1, seed, tokens))


def test_what_is_made_ahead_comes_in_order_and_fails_in_its_place() -> None:
    made: list[int] = []

    def make(step: int) -> int:
        made.append(step)
        return 1 // (5 - step)

    results = prefetch(make, range(1, 9), 2, threads=1)
    assert [next(results) for _ in range(4)] == [0, 0, 0, 1]
    assert len(made) <= 7
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert made == sorted(made)


def test_a_process_killed_while_it_opens_its_log_loses_no_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(path: Path, text: str) -> None:
        path.open("w").close()
        raise KeyboardInterrupt

    log = tmp_path / "metrics.jsonl"
    log.write_text('{"step": 1}\n')
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", killed)
        with pytest.raises(KeyboardInterrupt):
            TrainingLog(tmp_path, 2, 1, "tokens")
    assert lines(tmp_path) == [{"step": 1}]


def test_learning_rate_rises_and_falls() -> None:
    config = OptimizerConfig(learning_rate=1.0, warmup_steps=10)
    rates = [learning_rate(config, step, 110) for step in range(110)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == rates[10] == 1.0
    assert rates[60] == pytest.approx(0.5)
    assert rates[-1] == pytest.approx(0.01)
    cosine = replace(config, schedule="cosine")
    assert learning_rate(cosine, 60, 110) == pytest.approx(0.5)
    assert learning_rate(replace(config, schedule="constant"), 99, 110) == 1.0


def test_differing_keys_are_named_with_their_path() -> None:
    assert differing_keys({"a": 1, "b": {"c": 2, "d": 3}}, {"a": 1, "b": {"c": 4}, "e": 5}) == [
        "b.c", "b.d", "e"]


@pytest.mark.parametrize("optimizer, ahead", [("adafactor", False), ("adamw", True)])
def test_stopping_and_going_on_changes_no_bit(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str, ahead: bool
) -> None:
    """Stopped in the middle of an epoch, a window and a line of the log; dropout is on."""
    monkeypatch.setattr("kgc_seq2seq.training.batches.WINDOW", 2)
    if ahead:  # as for a model on an accelerator
        monkeypatch.setattr("kgc_seq2seq.training.loop.NOTHING_AHEAD_ON", ())
    options = OptimizerConfig(name=optimizer)
    whole = replace(without_captions(small(tiny, tmp_path / "whole")), optimizer=options)
    run_training(whole)

    parts = replace(whole, out=str(tmp_path / "parts"))
    with monkeypatch.context() as patch:
        stop_at(7, patch)
        stopped = run_training(parts)
    assert stopped is not None
    assert stopped.code == 3
    assert stopped.data == {"stopped_after_step": 8}
    with (tmp_path / "parts" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "lo')
    ended = run_training(parts)
    assert ended is not None
    assert ended.code == 0

    one, other = checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "parts")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    losses = [[(line["step"], line["loss"]) for line in lines(tmp_path / run) if "loss" in line]
              for run in ("whole", "parts")]
    assert losses[0] == losses[1]
    results = [(tmp_path / run / "results" / "test.json").read_text() for run in ("whole", "parts")]
    timeless = [{**json.loads(text), "protocol": None} for text in results]
    assert timeless[0] == timeless[1]


def test_a_signal_ends_a_validation_which_is_then_done_first(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = without_captions(small(tiny, tmp_path / "whole"))
    run_training(whole)
    parts = replace(whole, out=str(tmp_path / "parts"))
    every = parts.training.validate_every

    def interrupted(*values: object) -> NoReturn:
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError("the validation went on")

    for before in (True, False, False):  # in the last step; then in the validation that is due
        with monkeypatch.context() as patch:
            patch.setattr("kgc_seq2seq.train.rank_triples", interrupted)
            if before:
                stop_at(every - 1, patch)
                patch.setattr("kgc_seq2seq.train.rank_triples", None)
            stopped = run_training(parts)
        assert stopped is not None
        assert stopped.code == 3
        assert stopped.data == {"stopped_after_step": every}
    run_training(parts)
    timeless = [[{key: value for key, value in line.items() if "second" not in key
                  and key != "time"} for line in lines(tmp_path / run)]
                for run in ("whole", "parts")]
    assert timeless[0] == timeless[1]
    one, other = checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "parts")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_checkpoint_of_another_configuration_is_refused_with_the_keys(
    tiny: Path, tmp_path: Path
) -> None:
    config = without_captions(small(tiny, tmp_path / "run"))
    run_training(config)
    other = replace(config, seed=1, optimizer=OptimizerConfig(learning_rate=0.5))
    with pytest.raises(InputError, match=r"different: optimizer\.learning_rate, seed\)"):
        run_training(other)
    run_training(other, restart=True)


def test_a_damaged_checkpoint_is_refused(tiny: Path, tmp_path: Path) -> None:
    config = without_captions(small(tiny, tmp_path / "run"))
    run_training(config)
    newest = sorted((tmp_path / "run" / "checkpoints").iterdir())[-1]
    (newest / "optimizer.safetensors").write_bytes(b"no tensors")
    with pytest.raises(InputError, match=r"step-00000012 cannot be read .*delete it"):
        run_training(config)


def test_a_run_killed_while_it_is_evaluated_ranks_nothing_twice(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "QUERIES_AT_ONCE", 1)
    config = without_captions(small(tiny, tmp_path / "run"))
    whole = run_training(config)
    parts = tmp_path / "run" / "results"
    for result in parts.iterdir():
        result.unlink()
    kept = die_at({1}, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run_training(config)
    assert len(list(parts.glob("valid.parts/*.npy"))) == 1
    again = run_training(config)
    assert whole is not None
    assert again is not None
    assert again.data["both"] == whole.data["both"]
    assert len(kept) == len(set(kept)) == 4  # 2 of valid, 2 of test
    assert sorted(path.name for path in parts.iterdir()) == [
        "test-ranks.parquet", "test.json", "valid-ranks.parquet", "valid.json"]


def test_ranks_of_other_texts_or_another_process_are_not_taken(tmp_path: Path) -> None:
    accelerator, questions = Accelerator(cpu=True), np.zeros((1, 2), np.int32)
    mine = Kept(tmp_path / "test.parts", {"texts": "a"}, accelerator)
    other = Kept(tmp_path / "test.parts", {"texts": "b"}, accelerator)
    mine.put(questions, np.array([1]))
    assert other.get(questions) is None
    assert mine.get(questions) == np.array([1])


def test_an_evaluation_goes_on_with_the_same_texts_alone(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "QUERIES_AT_ONCE", 1)
    run, entities = tmp_path / "run", tiny / "entities.tsv"
    header, *rows = entities.read_text().splitlines()
    entities.write_text("\n".join([f"{header}\tdescription", *(f"{row}\ta thing" for row in rows)]))
    config = small(tiny, run)
    run_training(replace(config, input=replace(config.input, captions=False, descriptions=True)))
    kept = die_at({1, 2}, monkeypatch)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            evaluate_run(run, "test")
    assert len(set(kept)) == 2
    entities.write_text(entities.read_text().replace("a thing", "something else"))
    evaluate_run(run, "test")
    assert kept[2:] == kept[:2]  # both are asked anew


def test_only_the_last_checkpoints_are_kept(tiny: Path, tmp_path: Path) -> None:
    run_training(without_captions(small(tiny, tmp_path / "run", checkpoint_every=2)))
    kept = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert kept == ["step-00000010", "step-00000012"]


def test_a_finished_run_is_left_as_it_is(tiny: Path, tmp_path: Path) -> None:
    config = without_captions(small(tiny, tmp_path / "run"))
    first = run_training(config)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "results").iterdir()}
    again = run_training(config)
    assert first is not None
    assert again is not None
    assert again.data == first.data
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_the_model_is_that_of_the_best_validation(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ranked(search: ExactSearch, *words: object) -> Ranks:
        assert not search.decoder.model.training, "dropout is on"
        return ranking.rank_triples(search, *words)

    monkeypatch.setattr("kgc_seq2seq.train.rank_triples", ranked)
    run_training(without_captions(small(tiny, tmp_path / "run", steps=30, validate_every=3)))
    scores = {line["step"]: line["valid_mrr"] for line in lines(tmp_path / "run")
              if "valid_mrr" in line}
    training = json.loads((tmp_path / "run" / "training.json").read_text())
    assert scores[training["best_step"]] == max(scores.values())
    result = json.loads((tmp_path / "run" / "results" / "valid.json").read_text())
    assert result["both"]["mrr"] == pytest.approx(max(scores.values()))


def test_a_loss_that_is_no_number_ends_the_run(tiny: Path, tmp_path: Path) -> None:
    config = replace(without_captions(small(tiny, tmp_path / "run")),
                     optimizer=OptimizerConfig(name="adamw", learning_rate=1e30, warmup_steps=0))
    with pytest.raises(FloatingPointError, match=r"at step [24]; lower optimizer\.learning_rate"):
        run_training(config)


def arguments(tiny: Path, out: Path) -> list[str]:
    return ["--dataset", str(tiny), "--out", str(out), "--input.captions", "false",
            "--model.d_model", "16", "--model.d_ff", "16", "--model.num_heads", "2",
            "--tokenizer.pieces", "60", "--tokenizer.words", "0", "--training.steps", "12",
            "--training.batch_size", "4", "--training.log_every", "1",
            "--training.validate_every", "6", "--training.checkpoint_every", "6"]


BOTH = """
import json, sys
from kgc_seq2seq import train, train_scorer
generator, scorer = map(json.loads, sys.argv[1:])
sys.exit(train.main(generator) or train_scorer.main(scorer))
"""


def test_two_processes_learn_what_one_learns(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A generator, of which each takes its share of a step in two parts, and a scorer."""
    def commands(processes: int) -> tuple[list[str], list[str]]:
        out = tmp_path / f"by{processes}"
        return ([*arguments(tiny, out / "generator"), "--training.gradient_accumulation",
                 str(processes), "--json"],
                scorer_arguments("rotate", tiny, out / "rotate", "--json"))

    script, found = tmp_path / "both.py", []
    script.write_text(BOTH)
    for module, words in zip((train, train_scorer), commands(1), strict=True):
        assert module.main(words) == 0
        found.append(json.loads(capsys.readouterr().out))
    done = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", "--config_file",
         "configs/accelerate/two_cpu_processes.yaml", script, *map(json.dumps, commands(2))],
        capture_output=True, text=True, cwd=ROOT, timeout=300, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    first, end = json.JSONDecoder().raw_decode(done.stdout)  # the first process alone prints
    for kind, one, two in zip(("generator", "rotate"), found, (
            first, json.loads(done.stdout[end:])), strict=True):
        assert_learnt_alike((lines(tmp_path / "by1" / kind), one),
                            (lines(tmp_path / "by2" / kind), two))


def test_a_terminated_process_says_how_to_go_on(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "kgc_seq2seq.train", *arguments(tiny, out),
               "--training.steps", "100000", "--training.validate_every", "100000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               cwd=ROOT)
    guard = threading.Timer(120, process.kill)
    guard.start()
    metrics = out / "metrics.jsonl"
    while process.poll() is None and not (metrics.is_file() and metrics.read_text()):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate()
    guard.cancel()
    assert process.returncode == 3, stderr
    assert "goes on from there" in stdout
    assert list((out / "checkpoints").glob("step-*/state.json"))


@pytest.mark.parametrize("untied", [False, True], ids=["T5", "Flan-T5"])
def test_a_pretrained_model_is_fine_tuned(tiny: Path, tmp_path: Path, untied: bool) -> None:
    """From a folder, as from a hub: tokens for the marks are added, tied weights stay tied."""
    texts = {"thing apple pear plum fruit carrot leek vegetable red green kind of colour": 9}
    tokenizer = train_tokenizer(texts, TokenizerConfig(pieces=60, words=30))
    source = tmp_path / "pretrained"
    model = make_model(ModelConfig(d_model=16, d_ff=16, num_heads=2), tokenizer, seed=5)
    if untied:
        model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.shared.weight))
    model.save_pretrained(source)
    tokenizer.save_pretrained(source)
    config = without_captions(small(tiny, tmp_path / "run"))
    run_training(replace(config, model=ModelConfig(init="pretrained", pretrained=str(source))))
    trained = load_model(tmp_path / "run" / "model")
    assert trained.config.vocab_size == len(tokenizer) + 6
    assert trained.encoder.embed_tokens.weight is trained.shared.weight
    assert (trained.lm_head.weight is trained.shared.weight) == (not untied)
    assert not torch.equal(trained.shared.weight[: len(tokenizer)], model.shared.weight)


def test_a_part_of_valid_is_drawn_by_the_seed_and_the_protocol_says_so() -> None:
    graph = random_graph(0)
    few = RunConfig(dataset="", out="", seed=3, training=TrainingConfig(validate_facts=2))
    chosen = validation_facts(graph, few)
    assert len(graph.valid) > 2 == len(chosen)
    assert {*map(tuple, chosen.tolist())} < {*map(tuple, graph.valid.tolist())}
    assert np.array_equal(validation_facts(graph, few), chosen)
    assert not np.array_equal(validation_facts(graph, replace(few, seed=4)), chosen)
    assert validation_facts(graph, RunConfig(dataset="", out="")) is graph.valid
    assert selection(2, 2) == {}
    assert selection(2, 9) == {"selected_on": "filtered MRR on 2 facts of valid"}


def test_an_encoder_alone_is_no_model(tmp_path: Path) -> None:
    T5EncoderModel(T5Config(vocab_size=20, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
                   ).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"lacks .* of the model's weights, such as decoder"):
        load_model(tmp_path)


@pytest.mark.parametrize("make", [
    lambda path: None,
    lambda path: path.mkdir(),
    lambda path: (path.mkdir(), (path / "config.json").write_text("{}")),
], ids=["nothing", "empty folder", "no T5"])
def test_what_is_no_model_is_refused(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "model")
    with pytest.raises(InputError, match="No model can be loaded from"):
        load_model(tmp_path / "model")
