"""Which entities are linked: the facts of the train split, as far as captions need them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from caption_cache.columns import read_table
from caption_cache.errors import InputError

INVERSE = "^"
"""Before a relation's id: its inverse, as in the property paths of SPARQL 1.1."""


@dataclass(frozen=True)
class Links:
    """The facts of the train split."""

    triples: list[tuple[str, str, str]]
    """(head, relation, tail), as ids."""
    relation_names: dict[str, str]
    """By id; the inverse of a relation stands there too, under `INVERSE` and the id."""

    def pairs(self) -> list[tuple[str, str]]:
        """Every two entities that some fact links, once; sorted, the smaller id first.

        Neither the direction of facts nor their order in the file plays a part, so that adding
        facts changes no question.
        """
        return sorted({(min(head, tail), max(head, tail))
                       for head, _, tail in self.triples if head != tail})

    def questions(self) -> list[tuple[str, str]]:
        """Every (entity, relation) that some fact answers, in both directions, once; sorted."""
        return sorted({question for head, relation, tail in self.triples
                       for question in ((head, relation), (tail, INVERSE + relation))})


def read_links(dataset: Path, entities: set[str], split: str = "train") -> Links:
    """Read ``relations.tsv`` and the facts of ``train.tsv``.

    Args:
        dataset: The data-set folder.
        entities: The ids of its entities.
        split: ``train``; no other is taken.

    Raises:
        InputError: Another split is asked for, or a table is missing or malformed.
    """
    if split != "train":
        raise InputError(f"Captions of linked entities are made from the train split, not from "
                         f"{split!r}: that a pair has a caption would tell the model that the "
                         "fact it is asked for exists; leave --split away.")
    relations = read_table(dataset / "relations.tsv", ["id", "name"], ["inverse_name"])
    names = dict(zip(relations.texts("id"), relations.texts("name"), strict=True))
    for line, relation in enumerate(names, start=2):
        if relation.startswith(INVERSE):
            raise InputError(f"{relations.path}, line {line}: the id {relation!r} begins with "
                             f"{INVERSE!r}, which marks inverses; rename it.")
    inverse = {INVERSE + relation: told or f"inverse of {names[relation]}"
               for relation, told in zip(relations.texts("id"), relations.texts("inverse_name"),
                                         strict=True)}
    facts = read_table(dataset / f"{split}.tsv", ["head", "relation", "tail"])
    columns = [facts.texts(name) for name in ("head", "relation", "tail")]
    for name, known, column in zip(("head", "relation", "tail"), (entities, names, entities),
                                   columns, strict=True):
        for line, value in enumerate(column, start=2):
            if value not in known:
                table = "relations.tsv" if name == "relation" else "entities.tsv"
                raise InputError(f"{facts.path}, line {line}: the {name} {value!r} is not in "
                                 f"{table}; add it there or mend the fact.")
    return Links(list(zip(*columns, strict=True)), names | inverse)
