"""What the loop can do besides: accumulation, averages, early ends, LoRA, compilation, FSDP2."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from conftest import checkpoint, lines, noted, stop_at
from torch.optim.optimizer import register_optimizer_step_pre_hook
from transformers import T5ForConditionalGeneration

from caption_cache.command_line import answering
from caption_cache.errors import InputError
from kgc_seq2seq import training_run
from kgc_seq2seq.config import RunConfig
from kgc_seq2seq.evaluate import evaluate_run
from kgc_seq2seq.evaluation.ranks import middle
from kgc_seq2seq.evaluation.results import ranks_of, read_ranks
from kgc_seq2seq.graph.folder import read_graph
from kgc_seq2seq.text.tokenizer import TokenizerConfig
from kgc_seq2seq.text.verbalizer import Verbalizer
from kgc_seq2seq.train import run_training
from kgc_seq2seq.training.averages import WeightAverage
from kgc_seq2seq.training.kernels import keep_kernels
from kgc_seq2seq.training.loop import TrainingConfig, _random_seed
from kgc_seq2seq.training.lora import LoraConfig, adapters_merged, add_lora, merged
from kgc_seq2seq.training.model import ModelConfig, count_parameters, load_model, load_tokenizer
from kgc_seq2seq.training.optimizer import OptimizerConfig, learning_rate


def config(dataset: Path, out: Path, *, dropout: float = 0.0, **training: object) -> RunConfig:
    settings: dict[str, object] = {"steps": 12, "batch_size": 6, "validate_every": 5,
                                   "checkpoint_every": 4, "log_every": 2, **training}
    made = RunConfig(
        dataset=str(dataset), out=str(out), optimizer=OptimizerConfig(name="adamw"),
        model=ModelConfig(d_model=16, d_ff=16, num_heads=2, dropout=dropout),
        tokenizer=TokenizerConfig(pieces=60, words=0), training=TrainingConfig(**settings))
    return replace(made, input=replace(made.input, captions=False))


def test_a_validation_may_rank_a_part_of_valid(tiny: Path, tmp_path: Path) -> None:
    (tiny / "valid.tsv").write_text((tiny / "train.tsv").read_text())  # enough to choose from
    run = tmp_path / "run"
    run_training(config(tiny, run, steps=5, validate_facts=1))
    assert sorted(path.name for path in (run / "results").iterdir()) == [
        "test-ranks.parquet", "test.json"]
    evaluate_run(run, "valid")
    ranks = ranks_of(read_ranks(run / "results" / "valid-ranks.parquet"))
    tail, head = (1 / ranks.realistic).reshape(2, -1)
    found = noted(run, "valid_mrr")[-1]
    assert np.isclose(found, (tail + head) / 2).any()
    assert not np.isclose(found, (tail + head).mean() / 2)
    said = json.loads((run / "training.json").read_text())
    assert said["selected_on"] == "filtered MRR on 1 facts of valid"
    with pytest.raises(InputError, match="validate_facts is 0"):
        config(tiny, run, validate_facts=0)


def test_ranks_may_be_certified_from_validation_to_test(tiny: Path, tmp_path: Path) -> None:
    runs = {kind: tmp_path / kind for kind in ("exact", "certified")}
    said = {kind: run_training(config(tiny, run, steps=5, ranks=kind))
            for kind, run in runs.items()}
    found = {kind: json.loads((runs[kind] / "results" / f"{name}.json").read_text())
             for kind, name in (("exact", "test"), ("certified", "test-certified"))}
    for name, value in found["exact"]["both"].items():
        bracket = found["certified"]["both"][name]
        if name == "count":
            assert bracket == value
        else:
            assert bracket["low"] - 1e-9 <= value <= bracket["high"] + 1e-9
            assert middle(bracket) == (bracket["low"] + bracket["high"]) / 2
    assert middle(found["exact"]["both"]["mrr"]) == found["exact"]["both"]["mrr"]
    first = said["certified"]
    assert first is not None
    mrr = found["certified"]["both"]["mrr"]
    assert f"filtered MRR {mrr['low']:.4f}–{mrr['high']:.4f} (tail" in first.text
    facts = json.loads((runs["certified"] / "training.json").read_text())
    assert facts["selected_on"] == (
        "filtered MRR, the middle of its certified bracket, on 1 facts of valid")
    # A run that has ended is not ranked again, in either way.
    written = (runs["certified"] / "results" / "test-certified.json").stat().st_mtime_ns
    again = run_training(config(tiny, runs["certified"], steps=5, ranks="certified"))
    assert again == first
    assert (runs["certified"] / "results" / "test-certified.json").stat().st_mtime_ns == written
    assert not (runs["certified"] / "results" / "test.json").exists()


def test_a_training_shorter_than_its_log_says_its_loss(tiny: Path, tmp_path: Path) -> None:
    run_training(config(tiny, tmp_path / "run", steps=3, log_every=50))
    assert len(noted(tmp_path / "run", "loss")) == 1


@pytest.mark.parametrize("parts", [2, 3, 6])
def test_a_step_in_parts_is_the_same_step(tiny: Path, tmp_path: Path, parts: int) -> None:
    """Targets differ in length, so a mean of the parts' means would be another loss."""
    run_training(config(tiny, tmp_path / "whole"))
    run_training(config(tiny, tmp_path / "parts", gradient_accumulation=parts))
    targets = load_tokenizer(tmp_path / "whole" / "tokenizer")(list(read_graph(tiny).entity_names))
    assert len({len(ids) for ids in targets.input_ids}) > 1
    for name in ("loss", "gradient_norm"):
        np.testing.assert_allclose(*(noted(tmp_path / run, name) for run in ("parts", "whole")),
                                   rtol=1e-5)
    one, other = checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "parts")
    assert all(torch.allclose(one[name], other[name], atol=1e-4) for name in one)


@pytest.mark.parametrize("optimizer, part, option, value", [
    ("adamw", "training", "label_smoothing", 0.1), ("adamw", "training", "denoising", 0.5),
    ("adamw", "optimizer", "weight_decay", 0.5), ("adafactor", "optimizer", "weight_decay", 0.5),
    ("adamw", "optimizer", "max_grad_norm", 1e-3)])
def test_every_option_reaches_the_weights(
    tiny: Path, tmp_path: Path, optimizer: str, part: str, option: str, value: float
) -> None:
    found = []
    for changes in ({}, {option: value}):
        made = replace(config(tiny, tmp_path / str(len(changes)), steps=3),
                       optimizer=OptimizerConfig(name=optimizer, warmup_steps=0))
        run_training(replace(made, **{part: replace(getattr(made, part), **changes)}))
        found.append(checkpoint(Path(made.out)))
    assert any(not torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_a_step_has_its_epoch_its_learning_rate_and_its_seed(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the second of two processes, whose dropout is not that of the first."""
    epochs, rates, seeds = list[int](), list[float](), list[int]()
    examples, sow = Verbalizer.examples, torch.manual_seed
    monkeypatch.setattr(Verbalizer, "examples", lambda self, queries, epoch, *words: (
        epochs.append(epoch), examples(self, queries, epoch, *words))[1])
    monkeypatch.setattr(torch, "manual_seed", lambda seed: (seeds.append(seed), sow(seed))[1])
    monkeypatch.setattr(Accelerator, "process_index", 1)
    made = config(tiny, tmp_path / "run", log_every=1)
    made = replace(made, optimizer=replace(made.optimizer, warmup_steps=4))
    with register_optimizer_step_pre_hook(
            lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"])):
        run_training(made)
    assert rates == [learning_rate(made.optimizer, step, 12) for step in range(12)]
    assert noted(tmp_path / "run", "learning_rate") == rates
    assert sorted(set(epochs)) == sorted(set(noted(tmp_path / "run", "epoch"))) != [1]
    own = [_random_seed(0, step, 1) for step in range(12)]
    assert [seed for seed in seeds if seed in own] == own


def test_of_several_processes_the_first_tells_of_a_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(training_run, "train", lambda *_, **__: SimpleNamespace(
        step=4, best_step=0, due=False))
    told = []
    for first in (True, False):
        accelerator = SimpleNamespace(is_main_process=first)
        stopped = training_run.train_task(
            SimpleNamespace(), accelerator,  # type: ignore[arg-type]
            config(tmp_path, tmp_path / "run"), {}, {})
        assert answering("train", lambda answer=stopped: (answer, True)) == 3  # type: ignore[misc]
        told.append(capsys.readouterr().out)
    assert json.loads(told[0]) == {"stopped_after_step": 4}
    assert not told[1]


def test_a_step_with_fewer_examples_than_parts_is_refused(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"A step has 6 examples, too few for 1 processes with "
                                         r"training\.gradient_accumulation 7"):
        run_training(config(tiny, tmp_path / "run", gradient_accumulation=7))


def test_checkpointing_the_gradients_changes_no_bit(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    again = torch.utils.checkpoint.checkpoint

    def count(*arguments: object, **options: object) -> object:
        calls.append(options)
        return again(*arguments, **options)

    run_training(config(tiny, tmp_path / "plain", dropout=0.1))
    monkeypatch.setattr("transformers.modeling_utils.checkpoint", count)
    run_training(config(tiny, tmp_path / "saving", dropout=0.1, gradient_checkpointing=True))
    assert calls
    one, other = checkpoint(tmp_path / "plain"), checkpoint(tmp_path / "saving")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_compiled_model_learns_the_same(tiny: Path, tmp_path: Path) -> None:
    """Captured with dynamic shapes and run as captured, since inductor takes a minute."""
    run_training(config(tiny, tmp_path / "plain", steps=4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates what it calls itself
        run_training(config(tiny, tmp_path / "compiled", steps=4, compile="eager"))
        counters = torch._dynamo.utils.counters["stats"]
    assert counters["calls_captured"] > 0
    np.testing.assert_allclose(*(noted(tmp_path / run, "loss") for run in ("compiled", "plain")),
                               rtol=1e-5)


def test_attention_is_written_out_for_a_compiler_on_a_cpu(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[str] = []
    monkeypatch.setattr("kgc_seq2seq.train.compile_model", lambda model, backend: compiled.append(
        f"{backend}: {model.decoder.config._attn_implementation}"))
    run_training(config(tiny, tmp_path / "plain", steps=1))
    run_training(config(tiny, tmp_path / "compiled", steps=1, compile="inductor"))
    assert compiled == ["no: sdpa", "inductor: eager"]


def test_kernels_are_kept_for_every_length_unless_the_user_says_how_many(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
    monkeypatch.setenv(name, "7")
    keep_kernels()
    assert os.environ[name] == "7"
    monkeypatch.delenv(name)
    keep_kernels()
    assert int(os.environ[name]) == 16384


def test_an_unknown_compiler_is_refused(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"training\.compile is 'gcc'; give no, or one of .*induc"):
        run_training(config(tiny, tmp_path / "run", compile="gcc"))


def test_a_compiler_that_is_missing_is_named(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(InputError, match=r"there is no no-such-compiler; install it, name another"):
        run_training(config(tiny, tmp_path / "run", compile="inductor"))


def test_bf16_trains_and_fp16_only_by_force_and_on_a_gpu(tiny: Path, tmp_path: Path) -> None:
    run_training(config(tiny, tmp_path / "plain"))
    AcceleratorState._reset_state(reset_partial_state=True)  # of which a process has one
    run_training(config(tiny, tmp_path / "bf16", mixed_precision="bf16"))
    AcceleratorState._reset_state(reset_partial_state=True)
    one, other = noted(tmp_path / "plain", "loss"), noted(tmp_path / "bf16", "loss")
    assert one != other
    np.testing.assert_allclose(one, other, rtol=0.03)
    with pytest.raises(InputError, match=r"65,504.*bf16, or insist with training\.force_fp16"):
        TrainingConfig(mixed_precision="fp16")
    forced = config(tiny, tmp_path / "fp16", mixed_precision="fp16", force_fp16=True)
    if not torch.accelerator.is_available():
        with pytest.raises(InputError, match="fp16 needs a GPU"):
            run_training(forced)


def test_training_ends_when_patience_does(tiny: Path, tmp_path: Path) -> None:
    """With a learning rate that changes nothing, no validation is better than the first."""
    still = replace(config(tiny, tmp_path / "run", steps=500, validate_every=3, patience=2),
                    optimizer=OptimizerConfig(learning_rate=1e-12, warmup_steps=0))
    ended = run_training(still)
    assert ended is not None
    assert ended.code == 0
    facts = json.loads((tmp_path / "run" / "training.json").read_text())
    assert (facts["best_step"], facts["steps"]) == (3, 9)
    again = run_training(still)
    assert again is not None
    assert again.data == ended.data


def test_the_average_follows_its_formula_and_leaves_the_weights_alone() -> None:
    model = torch.nn.Linear(2, 1, bias=False)
    seen, average = model.weight.detach().clone(), WeightAverage(model, 0.5)
    for step in range(9):
        with torch.no_grad():
            model.weight.add_(1.0)
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        seen = decay * seen + (1 - decay) * model.weight.detach()
    before = model.weight.detach().clone()
    with average.applied():
        torch.testing.assert_close(model.weight.detach(), seen)
    assert torch.equal(model.weight, before)


def test_the_average_is_what_is_validated_and_kept(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the run was stopped in between; and it does not touch the training."""
    run_training(config(tiny, tmp_path / "without", dropout=0.1))
    averaged = config(tiny, tmp_path / "whole", dropout=0.1, ema_decay=0.9)
    run_training(averaged)
    stop_at(6, monkeypatch)
    parts = replace(averaged, out=str(tmp_path / "parts"))
    stopped = run_training(parts)
    assert stopped is not None
    assert stopped.code == 3
    monkeypatch.undo()
    run_training(parts)
    for name in ("model", "average"):
        one, other = (checkpoint(tmp_path / run, name) for run in ("whole", "parts"))
        assert all(torch.equal(one[key], other[key]) for key in one)
    plain, weights = checkpoint(tmp_path / "without"), checkpoint(tmp_path / "whole")
    assert all(torch.equal(plain[key], weights[key]) for key in plain)
    for run in ("whole", "parts"):
        result = json.loads((tmp_path / run / "results" / "valid.json").read_text())
        assert result["both"]["mrr"] == pytest.approx(max(noted(tmp_path / run, "valid_mrr")))
    kept = load_model(tmp_path / "whole" / "model").state_dict()
    assert any(not torch.equal(kept[key], weights[key]) for key in weights)


@pytest.mark.parametrize("untied", [False, True], ids=["T5", "Flan-T5"])
def test_lora_trains_adapters_and_new_rows_and_keeps_them_merged(
    tiny: Path, tmp_path: Path, pretrained: Path, monkeypatch: pytest.MonkeyPatch, untied: bool
) -> None:
    model = load_model(pretrained)
    if untied:
        model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.shared.weight))
        model.config.tie_word_embeddings = False
        model.save_pretrained(pretrained)
    old = model.shared.num_embeddings
    adapted = replace(config(tiny, tmp_path / "whole", dropout=0.1), model=ModelConfig(
        init="pretrained", pretrained=str(pretrained), lora=LoraConfig(rank=2, dropout=0.1)),
        optimizer=OptimizerConfig(name="adamw", learning_rate=0.05, warmup_steps=0))
    run_training(adapted)
    stop_at(6, monkeypatch)
    parts = replace(adapted, out=str(tmp_path / "parts"))
    run_training(parts)
    monkeypatch.undo()
    base = load_model(pretrained)
    base.decoder.block[0].layer[0].SelfAttention.o.weight.data[0, 0] += 1
    base.save_pretrained(pretrained)
    with pytest.raises(InputError, match="stands beside other frozen weights"):
        run_training(parts)
    model.save_pretrained(pretrained)
    run_training(parts)
    one, other = checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "parts")
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert {name.split(".")[-2] if "lora" not in name else "lora" for name in one} <= {
        "lora", "trainable_tokens_delta", "trainable_tokens_original"}

    kept = load_model(tmp_path / "whole" / "model")
    about = json.loads((tmp_path / "whole" / "training.json").read_text())
    assert about["parameters"] == count_parameters(kept)
    assert type(kept) is T5ForConditionalGeneration
    assert "lora" not in " ".join(kept.state_dict())
    assert torch.equal(kept.shared.weight[:old], model.shared.weight)
    assert kept.shared.num_embeddings == old + 6
    assert (kept.lm_head.weight is kept.shared.weight) == (not untied)
    was, now = model.state_dict(), kept.state_dict()
    changed = {name.split(".")[-2] for name in was
               if name in now and was[name].shape == now[name].shape
               and not torch.equal(was[name], now[name])}
    assert changed == {"q", "v"}
    result = json.loads((tmp_path / "whole" / "results" / "valid.json").read_text())
    training = json.loads((tmp_path / "whole" / "training.json").read_text())
    scores = {line["step"]: line["valid_mrr"] for line in lines(tmp_path / "whole")
              if "valid_mrr" in line}
    assert result["both"]["mrr"] == pytest.approx(scores[training["best_step"]])


@pytest.mark.parametrize("untied", [False, True], ids=["T5", "Flan-T5"])
def test_a_merged_model_computes_what_the_adapted_one_does(
    pretrained: Path, untied: bool
) -> None:
    model = load_model(pretrained)
    old = model.shared.num_embeddings
    if untied:
        model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.shared.weight))
        model.config.tie_word_embeddings = False
    model.resize_token_embeddings(old + 3, mean_resizing=False)
    add_lora(model, LoraConfig(rank=2), range(old, old + 3))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.normal_()
    model.eval()
    batch = {"input_ids": torch.tensor([[5, old, old + 2, 1]]),
             "labels": torch.tensor([[old + 1, 7, 1]])}
    expected = model(**batch).logits
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    plain = merged(model).eval()
    torch.testing.assert_close(plain(**batch).logits, expected, rtol=1e-4, atol=1e-4)
    with adapters_merged(model):
        assert torch.equal(model(**batch).logits, plain(**batch).logits)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("make, why", [
    (lambda: ModelConfig(lora=LoraConfig(rank=2)), "beside random weights"),
    (lambda: LoraConfig(rank=-1), r"model\.lora\.rank is -1"),
    (lambda: LoraConfig(alpha=0), r"model\.lora\.alpha is 0"),
    (lambda: LoraConfig(dropout=1), r"model\.lora\.dropout is 1"),
    (lambda: TrainingConfig(patience=-1), r"training\.patience is -1"),
    (lambda: TrainingConfig(ema_decay=1), r"training\.ema_decay is 1"),
    (lambda: TrainingConfig(gradient_accumulation=0), r"gradient_accumulation is 0"),
    (lambda: RunConfig(dataset="d", out="o", seed=-1), "seed is -1"),
])
def test_settings_out_of_range_are_refused(make: Callable[[], object], why: str) -> None:
    with pytest.raises(InputError, match=why):
        make()


def test_adapters_for_layers_that_are_not_there_are_refused(pretrained: Path) -> None:
    with pytest.raises(InputError, match=r"model\.lora\.targets does not fit the model"):
        add_lora(load_model(pretrained), LoraConfig(rank=2, targets=("query",)), range(0))


@pytest.mark.parametrize("target", ["lm_head", "shared", "encoder.embed_tokens"])
def test_adapters_for_embeddings_that_are_shared_are_refused(
    pretrained: Path, target: str
) -> None:
    with pytest.raises(InputError, match="names an embedding, which other places share"):
        add_lora(load_model(pretrained), LoraConfig(rank=2, targets=("q", target)), range(0))


def test_what_a_run_draws_is_the_same_everywhere() -> None:
    """Also on other platforms and versions of Python: the numbers are NumPy's promise."""
    assert _random_seed(0, 0, 0) == 15793235383387715774
    assert len({_random_seed(0, step, rank) for step in range(99) for rank in range(9)}) == 891
