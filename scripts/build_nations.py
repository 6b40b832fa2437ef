"""Writes the nations graph that ships in the package from the tables in scripts/nations.

The tables are made for people: one row a nation, one a pair of neighbours, one a group. This
script turns them into triples, splits these once and for all, and writes the data set; a test
runs it again and compares.
"""

from __future__ import annotations

import argparse
import json
import re
import unicodedata
from pathlib import Path

import numpy as np

from caption_cache.columns import read_table
from caption_cache.disk import replacing
from caption_cache.errors import InputError
from kgc_seq2seq.graph.splits import carve

HERE = Path(__file__).parent
TABLES = HERE / "nations"
PACKAGE = HERE.parent / "kgc_seq2seq" / "graph" / "nations"
VALID, TEST, SEED = 0.1, 0.1, 0

RELATIONS = {
    # id: (name, name of the inverse)
    "capital": ("capital", "capital of"),
    "continent": ("continent", "continent of"),
    "subregion": ("subregion", "subregion of"),
    "part_of": ("part of", "has part"),
    "currency": ("currency", "currency of"),
    "official_language": ("official language", "official language of"),
    "borders": ("borders", "borders"),
    "member_of": ("member of", "has member"),
    "coast": ("coast on", "coast of"),
    "river": ("river", "river of"),
    "mountains": ("mountains", "mountains of"),
    "driving_side": ("drives on the", "driving side of"),
    "flag_colour": ("flag colour", "colour in the flag of"),
    "flag_layout": ("flag layout", "layout of the flag of"),
}

CONTINENTS = {
    "Africa": ["Northern Africa", "Eastern Africa", "Middle Africa", "Southern Africa",
               "Western Africa"],
    "North America": ["Caribbean", "Central America", "Northern America"],
    "South America": ["South America (region)"],
    "Asia": ["Central Asia", "Eastern Asia", "South-eastern Asia", "Southern Asia",
             "Western Asia"],
    "Europe": ["Eastern Europe", "Northern Europe", "Southern Europe", "Western Europe"],
    "Oceania": ["Australia and New Zealand", "Melanesia", "Micronesia", "Polynesia"],
}
"""The subregions of the UN's M49 standard, with the Americas as two continents."""

GROUP_RELATIONS = {"organisation": "member_of", "sea": "coast", "river": "river",
                   "mountains": "mountains"}

ABOUT = {
    "name": "nations",
    "source": "written for this project from general knowledge; facts as of 1 January 2025",
    "licence": "Apache-2.0",
    "splits": f"{1 - VALID - TEST:.0%} / {VALID:.0%} / {TEST:.0%} at random with seed {SEED}; "
              "every entity and relation is in train, a border and its mirror are in one split",
    "images": "flags, drawn by kgc_seq2seq.graph.nations from flags.json",
}


def facts() -> tuple[list[tuple[str, str, str]], dict[str, str]]:
    """All triples by name, and the codes of the nations by name."""
    table = read_table(TABLES / "nations.tsv", [
        "code", "name", "capital", "subregion", "currencies", "languages", "driving_side",
        "flag_colours", "flag_layout"])
    nations = {column: table.texts(column) for column in table.header}
    names = dict(zip(nations["code"], nations["name"], strict=True))
    continent_of = {region: continent for continent, regions in CONTINENTS.items()
                    for region in regions}
    triples = [(region, "part_of", continent) for region, continent in continent_of.items()]
    for row in range(len(names)):
        nation = nations["name"][row]
        region = nations["subregion"][row]
        if region not in continent_of:
            raise InputError(f"nations.tsv, line {row + 2}: {region!r} is no M49 subregion; "
                             "correct it.")
        triples.append((nation, "continent", continent_of[region]))
        for relation, column in (
            ("capital", "capital"), ("subregion", "subregion"), ("currency", "currencies"),
            ("official_language", "languages"), ("driving_side", "driving_side"),
            ("flag_colour", "flag_colours"), ("flag_layout", "flag_layout"),
        ):
            triples += [(nation, relation, value) for value in nations[column][row].split(";")]
    borders = read_table(TABLES / "borders.tsv", ["a", "b"])
    for a, b in zip(borders.texts("a"), borders.texts("b"), strict=True):
        triples += [(names[a], "borders", names[b]), (names[b], "borders", names[a])]
    groups = read_table(TABLES / "groups.tsv", ["name", "kind", "members"])
    for name, kind, members in zip(*map(groups.texts, ("name", "kind", "members")), strict=True):
        triples += [(names[code], GROUP_RELATIONS[kind], name) for code in members.split(";")]
    return triples, {name: code for code, name in names.items()}


def slug(name: str) -> str:
    """An identifier that is also a good file name: ``Côte d'Azur`` -> ``cote-d-azur``."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=PACKAGE, help="where the files are written")
    out = parser.parse_args().out
    triples, codes = facts()
    names = sorted({name for head, _, tail in triples for name in (head, tail)})
    ids = [slug(name) for name in names]
    for what in (ids, [name.casefold() for name in names]):
        doubles = {value for value in what if what.count(value) > 1}
        if doubles:
            raise InputError(f"Two entities have one name or identifier: {sorted(doubles)}.")
    entity = {name: index for index, name in enumerate(names)}
    relation = {key: index for index, key in enumerate(RELATIONS)}
    rows = np.array([(entity[h], relation[r], entity[t]) for h, r, t in triples], np.int32)
    if len(np.unique(rows, axis=0)) != len(rows):
        raise InputError("A fact is stated twice in the tables.")
    relation_ids = list(RELATIONS)
    tables: dict[str, list[tuple[str, ...]]] = {
        "entities.tsv": [("id", "name"), *zip(ids, names, strict=True)],
        "relations.tsv": [("id", "name", "inverse_name"),
                          *((key, *both) for key, both in RELATIONS.items())],
        **{f"{split}.tsv": [("head", "relation", "tail"),
                            *((ids[h], relation_ids[r], ids[t]) for h, r, t in part)]
           for split, part in zip(("train", "valid", "test"), carve(rows, VALID, TEST, SEED),
                                  strict=True)},
    }
    for name, lines in tables.items():
        with replacing(out / name) as aside:
            aside.write_text("".join("\t".join(line) + "\n" for line in lines), "utf-8")
        print(f"{name}: {len(lines) - 1} rows")
    flag_owners = {code: ids[entity[name]] for name, code in codes.items()}
    for name, content in (("dataset.json", ABOUT), ("flag_owners.json", flag_owners)):
        with replacing(out / name) as aside:
            aside.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
