"""What every scorer promises, how it is found, and how it is kept on disk.

A third party adds a scorer by an entry point in the group ``kgc_seq2seq.scorers`` whose object
is a subclass of `EntityScorer`.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar, Protocol, get_type_hints

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from caption_cache.errors import InputError
from kgc_seq2seq.arrays import Longs
from kgc_seq2seq.graph.knowledge_graph import KnowledgeGraph
from kgc_seq2seq.scorers.ids import pack, unpack
from kgc_seq2seq.scorers.known import Known, kind_of
from kgc_seq2seq.scorers.vectors import Vectors

GROUP = "kgc_seq2seq.scorers"
Batch = Mapping[str, Tensor]
_IDS = ("entity_ids", "relation_ids")


@dataclass(frozen=True)
class Vocabulary:
    """What the rows of a scorer's tables stand for."""

    entity_ids: tuple[str, ...]
    """The N entities."""
    relation_ids: tuple[str, ...]
    """The R relations."""

    @classmethod
    def of(cls, graph: KnowledgeGraph) -> Vocabulary:
        """That of a graph."""
        return cls(tuple(graph.entity_ids), tuple(graph.relation_ids))


class Feed(Protocol):
    """The training examples of a scorer."""

    def __len__(self) -> int:
        """How many there are."""

    def __call__(self, examples: Longs, epoch: int) -> dict[str, Tensor]:
        """What `EntityScorer.loss` needs of examples (int64 [B]) in an epoch (from 1).

        The first dimension of every tensor is B. What is random follows from the arguments and
        the seed alone, so an example is the same in whatever batch and process it comes.
        """


class EntityScorer(nn.Module, ABC):
    """Scores every entity as the answer to a query (entity, relation in ``0 … 2R - 1``)."""

    name: ClassVar[str]
    """That of its entry point."""
    title: ClassVar[str]
    """What results call it."""
    Config: ClassVar[type[Any]]
    """A frozen dataclass: what determines the scorer beside the graph."""

    def __init__(
        self, config: Any, vocabulary: Vocabulary, vectors: Mapping[str, Known]
    ) -> None:
        """Make a scorer with random weights.

        Args:
            config: Of `Config`.
            vocabulary: What the rows of its tables stand for.
            vectors: At least those that `reads` names, in the order of the entities.
        """
        super().__init__()
        self.config = config
        self.vocabulary = vocabulary
        for modality in self.reads(config):
            # Buffers, so that a saved scorer is complete without its data set.
            for key in kind_of(modality).STORED:
                self.register_buffer(f"{modality}_{key}", getattr(vectors[modality], key).clone())

    @classmethod
    def reads(cls, config: Any) -> tuple[str, ...]:
        """The modalities whose vectors it needs, or ``mentions``."""
        return ()

    @abstractmethod
    def score(self, heads: Tensor, relations: Tensor) -> Tensor:
        """Score all entities; higher is better.

        Args:
            heads: The given entity of each query, int64 [B].
            relations: int64 [B] in ``0 … 2R - 1``.

        Returns:
            [B, N].
        """

    @abstractmethod
    def loss(self, batch: Batch) -> Tensor:
        """The sum of the losses of the examples in a batch, a scalar.

        Args:
            batch: From the scorer's `feed`, and ``done``: how much of the training is done, a
                scalar from 0 to 1.
        """

    @abstractmethod
    def feed(self, graph: KnowledgeGraph, seed: int) -> Feed:
        """The training examples of a graph."""

    def modality_weights(self, heads: Tensor, relations: Tensor) -> dict[str, Tensor] | None:
        """What structure, image and text weigh in the given entity of each query.

        Args:
            heads: int64 [B].
            relations: int64 [B] in ``0 … 2R - 1``.

        Returns:
            A weight in the entity's embedding, float [B], by modality; None: the scorer mixes no
            modalities.
        """
        return None

    def forward(self, batch: Batch) -> Tensor:
        """`loss`, by the name that DistributedDataParallel wraps."""
        return self.loss(batch)

    def vectors(self, modality: str) -> Vectors:
        """The vectors of one of the modalities that it `reads`."""
        return Vectors(self.get_buffer(f"{modality}_values"), self.get_buffer(f"{modality}_mask"))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``config.json`` and ``model.safetensors``, rows with their ids, into a folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {key: value.detach().contiguous() for key, value in self.state_dict().items()}
        ids = {key: pack(getattr(self.vocabulary, key)) for key in _IDS}
        save_file({**tensors, **ids}, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(
            {"scorer": self.name, "config": asdict(self.config)}, indent=1) + "\n")

    @staticmethod
    def from_pretrained(folder: str | Path, graph: KnowledgeGraph | None = None) -> EntityScorer:
        """Load a scorer, ready to score.

        Args:
            folder: What `save_pretrained` wrote.
            graph: The graph that it must have been trained on, if any.

        Raises:
            InputError: The folder holds no scorer, or one of another graph.
        """
        folder = Path(folder)
        try:
            about = json.loads((folder / "config.json").read_text("utf-8"))
            kind, values = about["scorer"], about["config"]
            tensors = load_file(folder / "model.safetensors")
            vocabulary = Vocabulary(*(unpack(tensors.pop(key)) for key in _IDS))
        except Exception as error:  # safetensors, JSON and the disk each have their own
            raise InputError(f"{folder} holds no scorer ({error!r}); give the folder 'model' of a "
                             "run of 'python -m kgc_seq2seq.train_scorer'.") from None
        if graph is not None:
            _refuse_other_graph(folder, vocabulary, graph)
        made = scorer_class(kind)
        config = _config(made.Config, values)
        known = {modality: kind_of(modality)(*(
            tensors[f"{modality}_{key}"] for key in kind_of(modality).STORED))
            for modality in made.reads(config)}
        scorer = made(config, vocabulary, known)
        scorer.load_state_dict(tensors)
        return scorer.eval()


def scorer_class(name: str) -> type[EntityScorer]:
    """Find a scorer by the name of its entry point.

    Raises:
        InputError: No installed package brings a scorer of that name.
    """
    known = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name not in known:
        raise InputError(f"No scorer is called {name!r}; the installed ones are "
                         f"{', '.join(sorted(known)) or 'none (install this package again)'}.")
    found: type[EntityScorer] = known[name].load()
    return found


def _config(kind: type[Any], values: dict[str, Any]) -> Any:
    """A configuration from the JSON values of `dataclasses.asdict`.

    What an older version did not know has its default.
    """
    hints = get_type_hints(kind)
    made = {}
    for entry in fields(kind):
        if entry.name not in values:
            continue
        value = values[entry.name]
        if is_dataclass(hints[entry.name]):
            value = _config(hints[entry.name], value)
        made[entry.name] = tuple(value) if isinstance(value, list) else value
    return kind(**made)


def _refuse_other_graph(folder: Path, vocabulary: Vocabulary, graph: KnowledgeGraph) -> None:
    for kind, own, theirs in (
            ("entities", vocabulary.entity_ids, graph.entity_ids),
            ("relations", vocabulary.relation_ids, graph.relation_ids)):
        if own != tuple(theirs):
            known = set(theirs)
            differing = [key for key in own if key not in known][:1]
            raise InputError(
                f"The scorer in {folder} was trained on other {kind} than those of {graph.name} ("
                + (f"it knows {differing[0]!r}" if differing else
                   f"it knows {len(own)} of {len(theirs)}, or in another order")
                + "); train it on this graph.")


def as_long(array: Any) -> Tensor:
    """A NumPy array of integers as int64."""
    return torch.from_numpy(array).long()
