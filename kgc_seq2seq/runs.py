"""Opens the folder of a run, of whatever kind its ``config.yaml`` says it is.

A generator's has the keys of `config.RunConfig`, a scorer's says ``scorer:``, a fusion's
``fusion:``. A fusion, of a generator with scorers or of scorers alone, holds its own weights alone:
it refers to its parts by relative paths, so that
it moves together with them, and to their weights by hashes, so that it never answers with other
parts than those it was fitted to.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from caption_cache.disk import replacing
from caption_cache.errors import InputError
from kgc_seq2seq.config import RunConfig, read_yaml
from kgc_seq2seq.decoding.exact import ExactSearch
from kgc_seq2seq.decoding.tree_decoder import TreeDecoder
from kgc_seq2seq.decoding.trie import EntityTrie
from kgc_seq2seq.graph.folder import read_graph
from kgc_seq2seq.graph.knowledge_graph import KnowledgeGraph
from kgc_seq2seq.reading import load_captions, make_verbalizer, texts_hash
from kgc_seq2seq.scorers.prior import Voice
from kgc_seq2seq.scorers.scorer import EntityScorer
from kgc_seq2seq.systems.dense import Dense
from kgc_seq2seq.systems.ensemble import Ensemble
from kgc_seq2seq.systems.fused import Fused
from kgc_seq2seq.systems.fused_scorers import FusedScorers
from kgc_seq2seq.systems.generator import Generator
from kgc_seq2seq.systems.rerank import Rerank
from kgc_seq2seq.systems.system import System
from kgc_seq2seq.training.model import load_model, load_tokenizer

Kind = Literal["generator", "scorer", "fusion"]
Method = Literal["fused", "rerank", "ensemble"]
WEIGHTS = "fusion.safetensors"
"""The file of a fusion's weights in its folder."""
_RELATIONS = "relations.json"


@dataclass(frozen=True)
class Run:
    """A run folder, opened."""

    kind: Kind
    """What it is a run of."""
    dataset: Path
    """The folder of its data set."""
    captions: Mapping[str, str]
    """What its generator reads, by entity id."""
    system: System
    """What answers."""
    caption_source: str | None = None
    """Whose captions those are, as `config.RunConfig` names it."""
    texts: Callable[[], str | None] = lambda: None
    """Gives `reading.texts_hash` of what its generator reads, which takes long where that is much;
    None: it has no generator."""


@dataclass(frozen=True)
class Part:
    """A run that a fusion is made of."""

    label: str
    """What explanations and results call it."""
    run: str
    """Its folder, relative to that of the fusion."""
    sha256: str
    """Of its weights; see `weights_hash`."""


@dataclass(frozen=True)
class Fusion:
    """What is in the ``config.yaml`` of a fusion."""

    fusion: Method
    """How the parts are combined."""
    generator: Part | None
    """The generator; None: scorers alone, only with fused."""
    scorers: tuple[Part, ...]
    """The scorers, at least one."""
    depth: int | None = None
    """How many of the generator's answers are put into order; only with rerank."""
    fitted: Mapping[str, Any] = field(default_factory=dict)
    """To what data and how, as JSON values: a fusion of the same goes on where it was stopped."""

    @property
    def parts(self) -> tuple[Part, ...]:
        """All of them; the first one's graph and captions are the fusion's."""
        return self.scorers if self.generator is None else (self.generator, *self.scorers)

    def as_dict(self) -> dict[str, Any]:
        """As YAML has it, in the order of the fields."""
        return asdict(self) | {"scorers": [asdict(part) for part in self.scorers]}

    def save(self, path: Path) -> None:
        """Write it as YAML."""
        path.write_text(yaml.safe_dump(self.as_dict(), sort_keys=False, allow_unicode=True),
                        "utf-8")


def relative(path: Path, run: Path) -> str:
    """A path as a run folder refers to it: where the run moves, what is beside it may move too.

    The folder is meant as the disk has it: ``..`` of a link is not where the link stands.
    """
    return os.path.relpath(path, run.resolve())


def run_kind(run: Path) -> Kind:
    """What a folder is a run of.

    Raises:
        InputError: It is no run folder.
    """
    if not (run / "config.yaml").is_file():
        raise InputError(f"{run} is not the folder of a run: it has no config.yaml; give the "
                         "folder that training or 'kgc fuse' wrote.")
    keys = read_yaml(run / "config.yaml")
    return "fusion" if "fusion" in keys else "scorer" if "scorer" in keys else "generator"


def read_generator(run: Path) -> RunConfig:
    """The configuration of a generator's run; its ``dataset`` is relative to the folder.

    Raises:
        InputError: It is no run folder, or the run of something else.
    """
    kind = run_kind(run)
    if kind != "generator":
        raise InputError(f"{run} is the run of a {kind}, where that of a generator is needed.")
    return RunConfig.load(run / "config.yaml")


def open_run(run: Path) -> Run:
    """Open a run folder of any kind, on a GPU if there is one.

    Raises:
        InputError: It is no run folder, its training has not got as far as a model, or its data
            set or a part of it has gone or has other entities or relations.
    """
    kind = run_kind(run)
    if kind == "fusion":
        return _open_fusion(run)
    if not (run / "model").is_dir():
        raise InputError(f"{run} has no model yet; go on with its training until the first "
                         "validation.")
    return _open_scorer(run) if kind == "scorer" else _open_generator(run)


def _open_generator(run: Path) -> Run:
    config = read_generator(run)
    dataset = run / config.dataset
    graph = read_graph(dataset)
    tokenizer = load_tokenizer(run / "tokenizer")
    model = load_model(run / "model")
    captions = load_captions(dataset, config)
    verbalizer = make_verbalizer(graph, captions, tokenizer, config)
    try:
        trie = EntityTrie.load(run / "trie.safetensors")
        relations = (run / _RELATIONS).read_text("utf-8")
    except (OSError, SafetensorError, TypeError, ValueError) as error:
        raise InputError(f"What {run} knows of its data set cannot be read ({error}); put it back, "
                         "or train again.") from None
    here = EntityTrie.build(*verbalizer.names())
    if not (np.array_equal(here.tokens, trie.tokens) and np.array_equal(here.order, trie.order)
            and relations == _relations(graph)):
        raise InputError(f"The entities or relations of {dataset} are not those that {run} was "
                         "trained on; put the data set back, or train again.")
    model.to(_device()).eval()  # type: ignore[arg-type]
    return Run("generator", dataset, captions.entity,
               Generator(verbalizer, ExactSearch(TreeDecoder(model), trie)),
               config.caption_source, partial(texts_hash, graph, captions, config))


def save_relations(run: Path, graph: KnowledgeGraph) -> None:
    """Write which relations a generator learns, since its tokens are their numbers."""
    with replacing(run / _RELATIONS) as aside:
        aside.write_text(_relations(graph), "utf-8")


def _relations(graph: KnowledgeGraph) -> str:
    return json.dumps({"ids": graph.relation_ids, "names": graph.relation_names}, indent=1,
                      ensure_ascii=False) + "\n"


def _open_scorer(run: Path) -> Run:
    dataset = run / str(read_yaml(run / "config.yaml")["dataset"])
    graph = read_graph(dataset)
    scorer = EntityScorer.from_pretrained(run / "model", graph)
    return Run("scorer", dataset, {}, Dense.of(scorer, graph, _device()))


def _open_fusion(run: Path) -> Run:
    config = read_fusion(run)
    for part in config.parts:
        if weights_hash(run / part.run) != part.sha256:
            raise InputError(f"The model of {run / part.run} is not the one that {run} was fitted "
                             "to; put it back, or fuse again.")
    opened = open_run(run / config.parts[0].run)
    if not (run / WEIGHTS).is_file():
        raise InputError(f"The weights of {run} are not fitted; start its 'kgc fuse' again.")
    try:
        tensors = load_file(run / WEIGHTS)
        weights, places = tensors["weights"], tensors["places"]
    except Exception as error:  # safetensors and the disk each have their own
        raise InputError(f"{run / WEIGHTS} cannot be read ({error}); delete {run}, "
                         "and fuse again.") from None
    if config.fusion == "fused" and len(weights) != len(config.parts):
        raise InputError(f"{run} is of a version that did not keep the generator's weights, which "
                         f"probabilities need; delete {run}, and fuse again.")
    if places.shape != (len(config.scorers), opened.system.graph.num_entities):
        raise InputError(f"{opened.dataset} has another number of entities than when {run} was "
                         "made; put it back, or fuse again.")
    voices = tuple(
        Voice(part.label, EntityScorer.from_pretrained(run / part.run / "model").to(_device()),
              rows.to(_device()))
        for part, rows in zip(config.scorers, places, strict=True))
    return replace(opened, kind="fusion", system=combined(config, opened.system, voices,
                                                          weights.to(_device())))


def combined(
    config: Fusion, first: System, voices: tuple[Voice, ...], weights: Tensor
) -> System:
    """The parts of a fusion, the first one opened, together; of what `save_weights` gets."""
    if config.generator is None:
        return FusedScorers(first.graph, voices, weights)
    generator = first
    assert isinstance(generator, Generator)  # by its kind
    if config.fusion == "fused":
        return Fused(generator, voices, weights)
    if config.fusion == "ensemble":
        return Ensemble(generator, voices, weights)
    assert config.depth is not None  # read_fusion has seen to it
    return Rerank(generator, voices, config.depth)


def begin_fusion(run: Path, config: Fusion) -> None:
    """Write what a fusion is made of; its weights come when they are fitted, see `save_weights`."""
    with replacing(run / "config.yaml") as aside:
        config.save(aside)


def save_weights(run: Path, weights: Tensor, places: Tensor) -> None:
    """Write the weights of a fusion.

    Args:
        run: Its folder.
        weights: With fused as `Fused.weights`, or of scorers alone `FusedScorers.weights`; with
            ensemble as `Ensemble.weights`; not read otherwise.
        places: Of each scorer as in `Voice.places`, int64 [S, N].
    """
    with replacing(run / WEIGHTS) as aside:
        save_file({"weights": weights.cpu().contiguous(), "places": places.cpu().contiguous()},
                  aside)


def read_fusion(run: Path) -> Fusion:
    """The ``config.yaml`` of a fusion.

    Raises:
        InputError: It cannot be read, or is not what `begin_fusion` wrote.
    """
    values: dict[str, Any] = read_yaml(run / "config.yaml")
    try:
        generator = values["generator"]
        config = Fusion(values["fusion"], generator and Part(**generator),
                        tuple(Part(**part) for part in values["scorers"]), values["depth"],
                        values.get("fitted", {}))
        if config.fusion not in get_args(Method) or not config.scorers or (
                (config.fusion == "rerank") != isinstance(config.depth, int)) or (
                config.fusion != "fused" and config.generator is None):
            raise ValueError(f"fusion: {config.fusion}, depth: {config.depth}")
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{run / 'config.yaml'} describes no fusion ({error!r}); fuse "
                         "again.") from None
    return config


def weights_hash(run: Path) -> str:
    """SHA-256 over the weights of a run of a generator or a scorer.

    Raises:
        InputError: The run has gone, or has no model.
    """
    files = sorted((run / "model").glob("*.safetensors"))
    if not files:
        raise InputError(f"{run} has no model; put the run back where it was, or fuse again.")
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
