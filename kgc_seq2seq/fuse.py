"""Makes one run of a generator and scorers, or of scorers alone, its weights fitted on valid."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from caption_cache.command_line import Answer
from caption_cache.disk import cannot_write
from caption_cache.errors import InputError
from kgc_seq2seq.arrays import Ints
from kgc_seq2seq.config import read_yaml
from kgc_seq2seq.evaluate import conclude, refuse_other_train, refuse_unfinished
from kgc_seq2seq.evaluation.kept import Kept
from kgc_seq2seq.evaluation.ranking import RankKind, ranker_of
from kgc_seq2seq.evaluation.results import write_result
from kgc_seq2seq.graph.knowledge_graph import KnowledgeGraph
from kgc_seq2seq.runs import (
    WEIGHTS,
    Fusion,
    Method,
    Part,
    begin_fusion,
    open_run,
    relative,
    run_kind,
    save_weights,
    weights_hash,
)
from kgc_seq2seq.scorers.prior import Candidates, Voice, choose_shrinkage, fit_weights
from kgc_seq2seq.scorers.scorer import scorer_class
from kgc_seq2seq.systems.candidates import gather
from kgc_seq2seq.systems.dense import Dense
from kgc_seq2seq.systems.ensemble import fit_mixture, gather_answers
from kgc_seq2seq.systems.generator import Generator

SHRINKAGES = (0.1, 1.0, 10.0, 100.0)
"""What cross-validation chooses from."""
AT_ONCE = 2**25
"""All entities are candidates while questions × entities × parts are at most so many."""


_OPTIONS = {"fused": {"shrinkage", "folds", "floor", "candidates"}, "rerank": {"depth"}}
"""What only some methods read."""


@dataclass(frozen=True)
class FuseConfig:
    """How parts are fused."""

    method: Method = "fused"
    """``fused`` adds weighted log-probabilities, ``rerank`` lets the scorers put the generator's
    best into order, ``ensemble`` takes the weighted mean of probabilities."""
    shrinkage: float | None = None
    """How strongly a relation's weight is drawn to the common one; None: chosen from `SHRINKAGES`
    by cross-validation within valid. Only with fused."""
    folds: int = 5
    """Of the cross-validation; both questions of a fact are in the same fold. Only with fused."""
    floor: float = 0.0
    """The fit counts no answer as less probable than about so much, so that a few hopeless ones do
    not decide the weights; 0: maximum likelihood. Only with fused."""
    candidates: int = 32
    """Weights are fitted to each part's so many best where the catalogue is large (`AT_ONCE`), and
    to as many drawn from the rest. Only with fused."""
    depth: int = 10
    """How many of the generator's answers are put into order; only with rerank."""
    ranks: RankKind = "exact"
    """How valid and test are ranked at the end: exactly; or test alone, within brackets that hold
    every reciprocal rank to 0.002, which is cheaper in a large catalogue; only with fused."""
    budget: int | None = None
    """Brackets may stay wider after about so many decoder positions for each query, since a few
    hard ones take most of the time; only with certified ranks. None: no limit."""

    def __post_init__(self) -> None:
        if self.shrinkage is not None and not 0 <= self.shrinkage < np.inf:
            raise InputError(f"--shrinkage is {self.shrinkage}; give 0 or more.")
        if not 0 <= self.floor < 1:
            raise InputError(f"--floor is {self.floor}; give 0 or more, and less than 1.")
        if self.folds < 2:
            raise InputError(f"--folds is {self.folds}; give 2 or more.")
        for name in ("candidates", "depth"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name} is {getattr(self, name)}; give 1 or more.")
        if self.ranks == "certified" and self.method != "fused":
            raise InputError(f"--method {self.method} has only exact ranks; leave out --ranks "
                             "certified, or choose --method fused.")
        if self.budget is not None and self.ranks == "exact":
            raise InputError("A --budget is of certified ranks; give --ranks certified with it, or "
                             "leave it out.")
        ranker_of(self.ranks, self.budget)  # refuses a budget below 1
        given = {entry.name for entry in fields(self) if getattr(self, entry.name) != entry.default}
        for method, names in _OPTIONS.items():
            if method != self.method and (unread := sorted(given & names)):
                raise InputError(f"--{unread[0]} is of --method {method}; leave it out, or choose "
                                 "that.")
        if {"shrinkage", "folds"} <= given:
            raise InputError("--folds is for choosing the shrinkage, which --shrinkage gives; "
                             "leave one of them out.")

    def fit(self) -> dict[str, Any]:
        """What the weights depend on, as JSON values: not how valid and test are ranked."""
        return {key: value for key, value in asdict(self).items() if key not in ("ranks", "budget")}


def fuse_runs(runs: Sequence[Path], out: Path, config: FuseConfig) -> Answer | None:
    """Fuse a generator with scorers, or scorers alone, and evaluate that.

    Args:
        runs: The run folders, at least two; a generator's comes first.
        out: The folder to write. A fusion that is there of the same parts and data, its weights
            fitted in the same way, goes on; another is replaced.
        config: How.

    Returns:
        The result on test.

    Raises:
        InputError: A folder is no run of the kind that is needed, the runs are of different
            graphs or of another train than they learnt, scorers alone are to be fused in a way that
            needs a generator, or ``out`` holds something else.
    """
    alone = run_kind(runs[0]) != "generator"
    for place, path in enumerate(runs):
        _refuse_kind(path, "scorer" if alone or place else "generator")
        refuse_unfinished(path)
    if alone and (config.method != "fused" or config.ranks != "exact"):
        raise InputError("Scorers alone are fused by --method fused, and have --ranks exact; "
                         "give a generator's run first for anything else.")
    # First, since it chooses the device of each process.
    accelerator = Accelerator(cpu=not torch.accelerator.is_available())
    opened = open_run(runs[0])
    first = opened.system
    generator = first if isinstance(first, Generator) else None
    scorers = runs if alone else runs[1:]
    graph = first.graph
    facts = len(graph.valid)
    if not facts:
        raise InputError(f"valid of {graph.name} is empty, and there is nothing to fit weights to; "
                         "draw one with 'kgc split'.")
    if config.method == "fused" and config.shrinkage is None and facts < config.folds:
        raise InputError(f"valid has {facts} facts, too few for {config.folds} folds; give fewer "
                         "--folds, or a --shrinkage.")
    voices = tuple(_voice(path, label, graph) for path, label in zip(
        scorers, _labels(scorers), strict=True))
    for path in runs:
        refuse_other_train(path)
    parts = [Part(label, relative(path, out), weights_hash(path)) for label, path in
             zip(_parts(generator, voices), runs, strict=True)]
    fusion = Fusion(config.method, None if alone else parts[0],
                    tuple(parts[-len(voices):]),
                    config.depth if config.method == "rerank" else None,
                    {**config.fit(), "graph": graph.fingerprint, "texts": opened.texts()})
    if not _is_fitted(out, fusion):
        _open_folder(out)
        begin_fusion(out, fusion)
        kept = Kept(out / "fit.parts", fusion.as_dict(), accelerator)
        weights, about = _fit(graph, generator, voices, config, kept)
        save_weights(out, weights, torch.stack([voice.places for voice in voices]))
        write_result(out / "training.json", {
            "system": " + ".join(part.label for part in parts),
            "method": config.method, "parts": [asdict(part) for part in parts], **about})
        kept.forget()
    # Where ranks take long, valid's, which the weights were fitted to, are not worth as long again.
    splits = ("valid", "test") if config.ranks == "exact" else ("test",)
    fused = open_run(out)
    return conclude(out, fused.system, accelerator, ranker_of(config.ranks, config.budget), splits,
                    fused.texts())


def _is_fitted(out: Path, fusion: Fusion) -> bool:
    """Whether a folder holds this fusion, its weights fitted; ``training.json`` comes last."""
    config = out / "config.yaml"
    return ((out / "training.json").is_file() and config.is_file()
            and read_yaml(config) == fusion.as_dict())


def _open_folder(out: Path) -> None:
    """Make the folder, or empty it of an earlier fusion's results and report.

    Raises:
        InputError: It holds something else, or cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()) and not ((out / "config.yaml").is_file()
                                       and run_kind(out) == "fusion"):
            raise InputError(f"{out} holds something that is no fusion; choose another --out.")
        shutil.rmtree(out / "results", ignore_errors=True)
        for name in ("training.json", "report.html", WEIGHTS):
            (out / name).unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(out, error) from None


def _refuse_kind(path: Path, wanted: str) -> None:
    kind = run_kind(path)
    if kind == "fusion":
        raise InputError(f"{path} is a fusion itself; give the runs that it is made of.")
    if kind != wanted:
        raise InputError(f"{path} is the run of a {kind}, where that of a {wanted} is needed; give "
                         "the generator's run first, then those of the scorers.")


def _labels(scorers: Sequence[Path]) -> list[str]:
    """The scorers' titles; with the folder's name where two have the same."""
    titles = [scorer_class(str(read_yaml(path / "config.yaml")["scorer"])).title
              for path in scorers]
    counts = Counter(titles)
    labels = [title if counts[title] == 1 else f"{title} ({path.name})"
              for title, path in zip(titles, scorers, strict=True)]
    if len(set(labels)) < len(labels):
        raise InputError("Two scorers are of the same kind and their folders of the same name; "
                         "give each once, or rename a folder.")
    return labels


def _voice(path: Path, label: str, graph: KnowledgeGraph) -> Voice:
    """A scorer's voice on ``graph``, of which it may lack some entities.

    Raises:
        InputError: It was trained on another graph, or trained or selected on facts that are to be
            answered here.
    """
    system = open_run(path).system
    assert isinstance(system, Dense)  # by its kind
    theirs = system.graph
    if theirs.fingerprint != graph.fingerprint:
        place = {key: number for number, key in enumerate(graph.entity_ids)}
        numbers = np.array([place.get(key, -1) for key in theirs.entity_ids], np.int64)
        if tuple(theirs.relation_ids) != tuple(graph.relation_ids) or (numbers < 0).any():
            raise InputError(f"The scorer in {path} was trained on {theirs.name}, which is another "
                             f"graph than that of the first run, {graph.name}; train it on this "
                             "one.")
        asked = np.concatenate([graph.valid, graph.test])
        for how, learnt, kept in (("trained", theirs.train, asked),
                                  ("selected", theirs.valid, graph.test)):
            here = learnt.copy()
            here[:, [0, 2]] = numbers[learnt[:, [0, 2]]]
            if leaks := int(_contained(here, kept, graph).sum()):
                raise InputError(f"The scorer in {path} was {how} on {leaks} facts of valid or "
                                 f"test of {graph.name}; train it on the splits of the first run.")
    voice = Voice.of(label, system.voice.scorer, graph)
    return replace(voice, places=voice.places.to(system.device))


def _contained(rows: Ints, others: Ints, graph: KnowledgeGraph) -> np.ndarray[Any, Any]:
    """Which facts are among others, read either way; bool [n]."""
    def keys(triples: Ints) -> np.ndarray[Any, Any]:
        facts = graph.fold(graph.queries(triples))
        return graph.query_keys(facts[:, 0], facts[:, 1]) * graph.num_entities + facts[:, 2]

    return np.isin(keys(rows)[: len(rows)], keys(others))


def _parts(generator: Generator | None, voices: tuple[Voice, ...]) -> list[str]:
    """The labels of all parts."""
    return ["generator"] * (generator is not None) + [voice.label for voice in voices]


def _fit(
    graph: KnowledgeGraph, generator: Generator | None, voices: tuple[Voice, ...],
    config: FuseConfig, kept: Kept,
) -> tuple[Tensor, dict[str, Any]]:
    """The weights, and what the protocol says of them."""
    labels = _parts(generator, voices)
    if config.method == "rerank":
        return torch.zeros(0), {"depth": config.depth, "weights_fitted_on": None}
    if config.method == "ensemble":
        assert generator is not None  # fuse_runs has seen to it
        weights = fit_mixture(gather_answers(graph, generator, voices, graph.valid, kept))
        return weights, {"weights_fitted_on": "valid", "normalised_by": "softmax",
                         "weights": dict(zip(labels, weights.tolist(), strict=True))}
    # What test says must not decide, not even which entities are no candidates.
    graph = replace(graph, test=graph.test[:0])
    whole = 2 * len(graph.valid) * graph.num_entities * len(labels) <= AT_ONCE
    known = gather(graph, generator, voices, graph.valid, None if whole else config.candidates,
                   kept)
    count = 2 * graph.num_relations
    shrinkage, tried = config.shrinkage, dict[float, float]()
    if shrinkage is None:
        tried = choose_shrinkage(known, count, _folds(known, config.folds), SHRINKAGES,
                                 config.floor)
        shrinkage = max(tried, key=lambda value: tried[value])
    weights = fit_weights(known, count, shrinkage, config.floor)
    weights = weights[-len(labels):]  # without a generator, one that says nothing comes first
    return weights, {
        "weights_fitted_on": "valid",
        "weights_filtered_by": ["train", "valid"],
        "weights_fitted_over": "all entities" if whole
        else f"the answer, the {config.candidates} best of each part, and as many others drawn",
        "floor": config.floor,
        "shrinkage": shrinkage,
        "shrinkage_chosen_by": None if not tried else
        {"cross_validation_folds_of_valid": config.folds,
         "held_out_log_likelihood": {str(key): round(value, 5) for key, value in tried.items()}},
        "weights": {label: _by_relation(graph, row.tolist())
                    for label, row in zip(labels, weights, strict=True)}}


def _folds(known: Candidates, count: int) -> Tensor:
    """The fold of each question; both questions of a fact share one."""
    facts = len(known.gold) // 2
    fold = torch.from_numpy(np.random.default_rng(0).permutation(facts) % count)
    return fold.repeat(2).to(known.gold.device)


def _by_relation(graph: KnowledgeGraph, weights: Sequence[float]) -> dict[str, dict[str, float]]:
    count = graph.num_relations
    return {key: {"tail": round(weights[number], 4), "head": round(weights[number + count], 4)}
            for number, key in enumerate(graph.relation_ids)}
