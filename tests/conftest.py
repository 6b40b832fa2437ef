"""What many tests share: small graphs, and one run trained through the real path."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np
import pytest
import torch
from hypothesis import settings
from safetensors.torch import load_file

from kgc_seq2seq.graph.knowledge_graph import KnowledgeGraph

if TYPE_CHECKING:
    from accelerate import Accelerator

    from kgc_seq2seq.evaluation.kept import Kept
    from kgc_seq2seq.systems.generator import Generator

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Models as small as these only wait for a second thread; the same for commands that tests start.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")
# How long an example takes is the machine's affair, which may be busy.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}
"""Of commands that tests start."""


def random_graph(seed: int, entities: int = 12, relations: int = 3, facts: int = 40
                 ) -> KnowledgeGraph:
    """A graph with random facts; its last relation is symmetric."""
    random = np.random.default_rng(seed)
    rows = np.unique(np.stack([random.integers(0, entities, facts),
                               random.integers(0, relations, facts),
                               random.integers(0, entities, facts)], axis=1), axis=0)
    rows = random.permutation(rows).astype(np.int32)
    cut = max(1, len(rows) // 6)
    names = [f"relation {r}" for r in range(relations)]
    inverse = [*(f"inverse {r}" for r in range(relations - 1)), names[-1]]
    return KnowledgeGraph(
        name="random", entity_ids=tuple(f"e{i}" for i in range(entities)),
        entity_names=tuple(f"name {chr(97 + i % 26)} {i}" for i in range(entities)),
        entity_descriptions=("",) * entities, relation_ids=tuple(f"r{r}" for r in range(relations)),
        relation_names=(*names, *inverse),
        train=rows[2 * cut:], valid=rows[:cut], test=rows[cut: 2 * cut])


def random_generator(seed: int) -> Generator:
    """A generator over a random graph, as small as can be and untrained."""
    from transformers import T5Config, T5ForConditionalGeneration

    from kgc_seq2seq.decoding.exact import ExactSearch
    from kgc_seq2seq.decoding.tree_decoder import TreeDecoder
    from kgc_seq2seq.decoding.trie import EntityTrie
    from kgc_seq2seq.systems.generator import Generator
    from kgc_seq2seq.text.input_config import InputConfig
    from kgc_seq2seq.text.tokenizer import TokenizerConfig, graph_texts, train_tokenizer
    from kgc_seq2seq.text.verbalizer import Verbalizer

    graph = random_graph(seed)
    tokenizer = train_tokenizer(graph_texts(graph, {}), TokenizerConfig(pieces=60, words=0))
    verbalizer = Verbalizer(graph, {}, tokenizer, InputConfig(neighbours=2), seed)
    torch.manual_seed(seed)
    model = T5ForConditionalGeneration(T5Config(
        vocab_size=len(tokenizer), d_model=8, d_ff=8, d_kv=4, num_heads=2, num_layers=1,
        decoder_start_token_id=0)).eval()
    return Generator(verbalizer, ExactSearch(TreeDecoder(model),
                                             EntityTrie.build(*verbalizer.names())))


@pytest.fixture(scope="module")
def accelerator() -> Accelerator:
    """One process on a CPU."""
    from accelerate import Accelerator

    return Accelerator(cpu=True)


def draw_by_name(module: torch.nn.Module, std: float) -> None:
    """Random weights that are the same for a name, whatever other weights there are."""
    for name, weights in module.named_parameters():
        generator = torch.Generator().manual_seed(crc32(name.encode()))
        torch.nn.init.normal_(weights, std=std, generator=generator)


def stop_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send this process SIGTERM when it begins a step, for which it draws a seed."""
    from kgc_seq2seq.training import loop

    draw = loop._random_seed

    def begin(seed: int, now: int, rank: int) -> int:
        if now == step:
            signal.raise_signal(signal.SIGTERM)
        return draw(seed, now, rank)

    monkeypatch.setattr(loop, "_random_seed", begin)


def die_at(counts: set[int], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """End this process, as Ctrl-C does, when it has kept so many arrays.

    Returns:
        The questions of all that were kept, which grows.
    """
    from kgc_seq2seq.evaluation.kept import Kept

    put, kept = Kept.put, list[str]()

    def dying(self: Kept, questions: np.ndarray, found: np.ndarray) -> None:
        put(self, questions, found)
        kept.append(str(questions.tolist()))
        if len(kept) in counts:
            raise KeyboardInterrupt

    monkeypatch.setattr(Kept, "put", dying)
    return kept


def answer(capsys: pytest.CaptureFixture[str], *words: object) -> Any:
    """What a command of ``kgc`` prints with ``--json``."""
    from kgc_seq2seq.cli import main

    capsys.readouterr()
    assert main([*map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def lines(run: Path) -> list[dict[str, float]]:
    """Of ``metrics.jsonl``."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def noted(run: Path, name: str) -> list[float]:
    """A number of ``metrics.jsonl`` wherever it was written down, such as the loss."""
    return [line[name] for line in lines(run) if name in line]


def checkpoint(run: Path, name: str = "model") -> dict[str, torch.Tensor]:
    """The tensors of the newest checkpoint."""
    return load_file(sorted((run / "checkpoints").iterdir())[-1] / f"{name}.safetensors")


def assert_learnt_alike(
    one: tuple[list[dict[str, Any]], dict[str, Any]],
    two: tuple[list[dict[str, Any]], dict[str, Any]],
) -> None:
    """Lines of ``metrics.jsonl`` and the result on test, of one process and of two."""
    assert two[1]["protocol"]["processes"] == 2
    for name in ("loss", "gradient_norm"):
        np.testing.assert_allclose(*([line[name] for line in lines if name in line]
                                     for lines, _ in (one, two)), rtol=1e-4)
    for side in ("both", "tail", "head"):
        assert one[1][side] == pytest.approx(two[1][side], rel=1e-3)


TINY = {
    "entities.tsv": "id\tname\n" + "".join(f"e{i}\tthing {w}\n" for i, w in enumerate(
        ["apple", "pear", "plum", "fruit", "carrot", "leek", "vegetable", "red", "green"])),
    "relations.tsv": "id\tname\tinverse_name\nkind\tkind\tkind of\ncolour\tcolour\tcolour of\n"
                     "beside\tbeside\tbeside\n",
    "train.tsv": "head\trelation\ttail\n" + "".join(f"{h}\t{r}\t{t}\n" for h, r, t in [
        ("e0", "kind", "e3"), ("e1", "kind", "e3"), ("e4", "kind", "e6"), ("e5", "kind", "e6"),
        ("e0", "colour", "e7"), ("e1", "colour", "e8"), ("e2", "colour", "e7"),
        ("e5", "colour", "e8"), ("e0", "beside", "e1"), ("e1", "beside", "e0")]),
    "valid.tsv": "head\trelation\ttail\ne2\tkind\te3\n",
    "test.tsv": "head\trelation\ttail\ne4\tcolour\te7\n",
}


def write_tiny(folder: Path) -> Path:
    """Write the tiny data set into a new folder."""
    folder.mkdir(parents=True)
    for name, text in TINY.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A data-set folder of nine entities, without images."""
    return write_tiny(tmp_path / "tiny")


@pytest.fixture(scope="session")
def nations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The nations graph as a data-set folder, flags captioned; tests must not change it."""
    from caption_cache.build import build
    from caption_cache.captioners import load_captioner
    from kgc_seq2seq.graph.nations import write_nations

    folder = tmp_path_factory.mktemp("data") / "nations"
    write_nations(folder)
    build(folder, load_captioner("palette"), show_progress=False)
    return folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, nations: Path) -> Path:
    """A run on the nations graph of a few steps, with results; tests must not change it."""
    from kgc_seq2seq.config import RunConfig
    from kgc_seq2seq.train import run_training
    from kgc_seq2seq.training.loop import TrainingConfig

    run = tmp_path_factory.mktemp("runs") / "trained"
    run_training(RunConfig(dataset=str(nations), out=str(run), training=TrainingConfig(
        steps=120, batch_size=32, validate_every=120, checkpoint_every=60, log_every=20)))
    return run


@pytest.fixture
def edited(tiny: Path) -> Callable[[str, str], Path]:
    """Replace a file of the tiny data set, and give the folder."""
    def edit(name: str, text: str) -> Path:
        (tiny / name).write_text(text)
        return tiny
    return edit


@pytest.fixture
def pretrained(tmp_path: Path) -> Path:
    """A T5 with untrained weights and a tokenizer, as a hub would hold them."""
    from kgc_seq2seq.text.tokenizer import TokenizerConfig, train_tokenizer
    from kgc_seq2seq.training.model import ModelConfig, make_model

    texts = {"thing apple pear plum fruit carrot leek vegetable red green kind of colour": 9}
    tokenizer = train_tokenizer(texts, TokenizerConfig(pieces=60, words=30))
    model = make_model(ModelConfig(d_model=16, d_ff=16, num_heads=2, initializer_factor=1.0),
                       tokenizer, seed=5)
    model.save_pretrained(tmp_path / "pretrained")
    tokenizer.save_pretrained(tmp_path / "pretrained")
    return tmp_path / "pretrained"
