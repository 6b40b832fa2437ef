"""What entities and relations are called: names from identifiers, and policies for collisions."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from caption_cache.columns import first_true, shown
from caption_cache.errors import InputError
from kgc_seq2seq.arrays import Ints, Longs
from kgc_seq2seq.graph.csr import Csr
from kgc_seq2seq.graph.knowledge_graph import KnowledgeGraph

CONTROL = r"[\x{00}-\x{1f}\x{7f}-\x{9f}\x{2028}\x{2029}]"
"""Characters that no name and no id may hold: they cannot be seen, and some end a line."""
_URI = r"^<?[A-Za-z][A-Za-z0-9+.-]*://[^/]+/[^<>]*>?$"
# <scheme://host/namespace/the rest>, or <… #the rest>
_LOCAL = r"^<?[A-Za-z][A-Za-z0-9+.-]*://[^/]+/(?:[^#]*#|[^/#]+/)?([^<>]*[^<>/])/?>?$"
_HINT_WORDS = 12
_ROUNDS = 4
_PUNCTUATION = str.maketrans(dict.fromkeys('"();', " "))
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


class Policy(StrEnum):
    """What becomes of entities that share a name."""

    ERROR = "error"
    """They are refused."""
    DESCRIPTION = "description"
    """Each is told apart by the first words of its description."""
    RELATION_HINT = "relation-hint"
    """Each is told apart by one of its train facts that the others do not share."""
    ID = "id"
    """Each is told apart by its id."""


def folded(name: str) -> str:
    """What names have in common that people take for one: in any case, composed or decomposed."""
    return unicodedata.normalize("NFC", name).casefold()


Key = Callable[[Sequence[str]], pa.Array]
"""Gives names keys, strings or bytes, that are equal exactly when a model cannot tell the names
apart."""


@dataclass(frozen=True)
class Collision:
    """Entities that share a name."""

    name: str
    """The name of the first of them."""
    ids: tuple[str, ...]
    """Their ids."""
    became: tuple[str, ...]
    """The name each has got."""


def normalized(names: Sequence[str] | pa.Array) -> pa.Array:
    """Names as T5's vocabularies read them: NFKC, white space collapsed.

    Names that are equal then have the same tokens in every such vocabulary.
    """
    array = names if isinstance(names, pa.Array) else pa.array(names, pa.string())
    return pc.utf8_trim_whitespace(_collapse(pc.utf8_normalize(array, form="NFKC")))


def collision_groups(keys: Sequence[str] | pa.Array) -> tuple[Longs, Longs]:
    """Find equal keys.

    Returns:
        The places that share their key with another, and the number of the group of each, both
        int64 [K], by the order in which the groups begin.
    """
    array = keys if isinstance(keys, pa.Array) else pa.array(keys, pa.string())
    codes = array.dictionary_encode().indices.to_numpy().astype(np.int64)
    if not len(codes):
        return codes, codes
    places = np.flatnonzero(np.bincount(codes)[codes] > 1)
    places = places[np.argsort(codes[places], kind="stable")]
    return places, np.unique(codes[places], return_inverse=True)[1]


def clean(names: pa.Array, what: str) -> pa.Array:
    """Make names of one line: white space collapsed, nothing at the ends.

    Args:
        names: Strings; a missing name stays missing, an empty one becomes so.
        what: Where they come from, to begin an error message with.

    Raises:
        InputError: A name holds a control character that is no white space.
    """
    names = pc.utf8_trim_whitespace(_collapse(names))
    if (row := first_true(pc.match_substring_regex(names, CONTROL))) is not None:
        raise InputError(f"{what}: the name {shown(names[row].as_py())} holds a control "
                         "character; take it out.")
    return pc.if_else(pc.equal(names, ""), pa.scalar(None, pa.string()), names)


def short_ids(ids: pa.Array) -> pa.Array:
    """What is left of URIs without their namespace; all stay whole where two would be equal.

    A query may name them by the whole URI all the same.
    """
    bare = pc.replace_substring_regex(ids, r"^<(.*)>$", r"\1")
    short = pc.if_else(pc.match_substring_regex(bare, _LOCAL),
                       pc.replace_substring_regex(bare, _LOCAL, r"\1"), bare)
    return short if pc.count_distinct(short).as_py() == len(short) else bare


def names_of_entities(ids: pa.Array) -> pa.Array:
    """Names out of identifiers.

    A URI gives what follows its namespace, percent-decoded. Underscores stand for spaces when no
    identifier has a space.
    """
    names = _decoded(ids)
    if not pc.any(pc.match_substring(names, " ")).as_py():
        names = pc.replace_substring(names, "_", " ")
    return pc.utf8_trim_whitespace(_collapse(names))


def names_of_relations(ids: Sequence[str]) -> list[str]:
    """Names out of identifiers: ``http://dbpedia.org/ontology/birthPlace`` -> ``birth place``."""
    names = []
    for text in _decoded(pa.array(ids, pa.string())).to_pylist():
        if "://" not in text:
            text = re.split(r"[/#](?=[^/#]*[^/#\W])", text)[-1] if "#" in text else text
        words = re.sub(r"[_/.\s]+", " ", _CAMEL.sub(" ", text)).split()
        # ISBN stays as it is; Place becomes place.
        names.append(" ".join(word if word.isupper() and len(word) > 1 else word.lower()
                              for word in words) or text)
    return names


def resolve_collisions(graph: KnowledgeGraph, policy: Policy, key: Key | None = None
                       ) -> tuple[list[str], list[Collision]]:
    """Give every entity a name of its own.

    Args:
        graph: The graph; entities may share names.
        policy: What tells them apart. Where it cannot, the id does.
        key: When names are the same; by default when they are after `normalized`.

    Returns:
        The names, and what was done.

    Raises:
        InputError: The policy is ``error`` and there are collisions, or even the ids do not tell
            the names apart.
    """
    same: Key = key or normalized
    names = list(graph.entity_names)
    places, groups = collision_groups(same(names))
    if not len(places):
        return names, []
    if policy is Policy.ERROR:
        one, other = places[:2].tolist()
        raise InputError(
            f"{len(places):,} entities share their name with another, such as {names[one]!r} "
            f"({graph.entity_ids[one]} and {graph.entity_ids[other]}); tell them apart with "
            "--on-collision description, relation-hint or id, or by better --names.")
    first_names = [names[place] for place in places]
    hints = {Policy.DESCRIPTION: _description_hints, Policy.RELATION_HINT: _relation_hints}
    if policy in hints:
        for place, hint in zip(places.tolist(), hints[policy](graph, places, groups), strict=True):
            if hint:
                names[place] = f"{names[place]} ({hint})"
    # A name made so may be another's by chance, such as "X (id)", so look again; ids end it.
    for _ in range(_ROUNDS):
        for place in collision_groups(same(names))[0].tolist():
            names[place] = f"{names[place]} ({graph.entity_ids[place]})"
    if len(still := collision_groups(same(names))[0]):
        raise InputError(f"The names {names[still[0]]!r} and {names[still[1]]!r} cannot be told "
                         "apart even by their ids; change one by --names.")
    collisions = []
    for group in np.split(np.arange(len(places)), np.flatnonzero(np.diff(groups)) + 1):
        members = places[group].tolist()
        collisions.append(Collision(
            first_names[group[0]], tuple(graph.entity_ids[place] for place in members),
            tuple(names[place] for place in members)))
    return names, collisions


def _collapse(names: pa.Array) -> pa.Array:
    return pc.replace_substring_regex(names, r"[\s\p{Z}\x{85}]+", " ")


def _decoded(ids: pa.Array) -> pa.Array:
    uri = pc.match_substring_regex(ids, _URI)
    local = pc.if_else(uri, pc.replace_substring_regex(ids, _LOCAL, r"\1"), ids)
    coded = np.flatnonzero(pc.and_(uri, pc.match_substring(local, "%")))
    if not len(coded):
        return local
    decoded = [unquote(text) for text in local.take(coded).to_pylist()]
    mask = np.zeros(len(local), bool)
    mask[coded] = True
    return pc.replace_with_mask(local, pa.array(mask), pa.array(decoded, pa.string()))


def _description_hints(graph: KnowledgeGraph, places: Longs, groups: Longs) -> list[str]:
    """The shortest beginning of each description that no other of the group shares."""
    words = [graph.entity_descriptions[place].translate(_PUNCTUATION).split()
             for place in places.tolist()]
    hints = [""] * len(places)
    for group in np.split(np.arange(len(places)), np.flatnonzero(np.diff(groups)) + 1):
        waiting = group.tolist()
        longest = max(len(words[member]) for member in waiting)
        for length in range(min(3, longest), min(longest, _HINT_WORDS) + 1):
            said = Counter(" ".join(words[member][:length]) for member in group.tolist())
            for member in waiting:
                text = " ".join(words[member][:length])
                if text and said[text] == 1:
                    hints[member] = text.rstrip(",.:")
            waiting = [member for member in waiting if not hints[member]]
            if not waiting:
                break
    return hints


def _relation_hints(graph: KnowledgeGraph, places: Longs, groups: Longs) -> list[str]:
    """A train fact of each that no other of the group has, with the best-known neighbour.

    A name is read with every question, so it must not tell of pairs that valid or test ask about.
    """
    owner, facts = graph.neighbours.rows(places)
    if not len(owner):
        return [""] * len(places)
    rows: Ints = np.concatenate([groups[owner][:, None].astype(np.int32), facts], axis=1)
    _, which, count = np.unique(rows, axis=0, return_inverse=True, return_counts=True)
    asked = np.concatenate([graph.valid, graph.test])
    told = np.isin(graph.pair_keys(places[owner], facts[:, 1]),
                   graph.pair_keys(asked[:, 0], asked[:, 2]))
    alone = np.flatnonzero((count[which] == 1) & ~told)
    # The rest of the key only makes the choice the same every time.
    degree = graph.train_degree[facts[alone, 1]]
    order = alone[np.lexsort([facts[alone, 1], facts[alone, 0], -degree, owner[alone]])]
    chosen = Csr.group(owner[order], facts[order])
    hints = [""] * len(places)
    for member, start in zip(chosen.keys.tolist(), chosen.offsets.tolist(), strict=False):
        relation, neighbour = chosen.values[start].tolist()
        hints[member] = f"{graph.relation_names[relation]} {graph.entity_names[neighbour]}"
    return hints
