"""The densest part of a graph against a plain count."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from caption_cache.captions import read_captions
from caption_cache.images import find_images, read_entities
from kgc_seq2seq import cli
from kgc_seq2seq.graph.folder import read_graph
from kgc_seq2seq.graph.knowledge_graph import SPLITS
from kgc_seq2seq.graph.subset import densest_entities


def facts(folder: Path, split: str) -> set[tuple[str, str, str]]:
    graph = read_graph(folder)
    return {(graph.entity_ids[h], graph.relation_ids[r], graph.entity_ids[t])
            for h, r, t in graph.split(split).tolist()}


def test_a_subset_holds_the_densest_entities_and_all_between_them(
    nations: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["subset", str(nations), str(tmp_path / "a"), "--entities", "250",
                     "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    degree = Counter(end for h, _, t in facts(nations, "train") for end in (h, t))
    graph = read_graph(tmp_path / "a")
    kept = set(graph.entity_ids)
    assert len(kept) == report["entities"] == 250
    assert min(degree[key] for key in kept) >= max(
        degree[key] for key in read_graph(nations).entity_ids if key not in kept)
    train = {(h, r, t) for h, r, t in facts(nations, "train") if {h, t} <= kept}
    relations = {r for _, r, _ in train}
    assert set(graph.relation_ids) == relations
    for split in SPLITS:
        expected = {(h, r, t) for h, r, t in facts(nations, split)
                    if {h, t} <= kept and r in relations}
        assert facts(tmp_path / "a", split) == expected
        assert report["triples"][split] == len(expected)

    texts = read_captions(nations).texts
    assert read_captions(tmp_path / "a").texts == {
        key: text for key, text in texts.items() if key in kept}

    assert cli.main(["subset", str(nations), str(tmp_path / "b"), "--entities", "250"]) == 0
    for name in ("entities.tsv", "train.tsv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("command", ["subset", "split"])
def test_images_come_along_however_they_are_kept(
    nations: Path, tmp_path: Path, command: str
) -> None:
    full = tmp_path / "full"
    shutil.copytree(nations, full, ignore=shutil.ignore_patterns("images", "images.tsv"))
    graph = read_graph(full)
    first, second, *_ = (graph.entity_ids[place] for place in np.flatnonzero(
        densest_entities(graph, 20, 0)))
    (full / "images").mkdir()
    (tmp_path / "pool.png").write_bytes(b"pixels")
    (full / "images/link.png").symlink_to("../../pool.png")
    (full / "images.tsv").write_text("entity\tpath\n" + "".join(
        f"{key}\timages/link.png\n" for key in (first, second)))
    words = ["--entities", "300"] if command == "subset" else []
    assert cli.main([command, str(full), str(tmp_path / "deep/part"), *words]) == 0
    part = tmp_path / "deep/part"
    found = find_images(part, read_entities(part))
    assert [(image.entity, image.path) for image in found] == [
        (key, "images/link.png") for key in (first, second)]
    assert (part / "images/link.png").read_bytes() == b"pixels"


@pytest.mark.parametrize(("command", "target"), [
    ("subset", "nowhere"), ("subset", "a.png"), ("split", "nowhere")])
def test_an_image_that_is_a_link_to_nowhere_is_refused(
    nations: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, target: str
) -> None:
    full = tmp_path / "full"
    shutil.copytree(nations, full, ignore=shutil.ignore_patterns("images", "images.tsv"))
    image = full / "images" / read_graph(full).entity_ids[0] / "a.png"
    image.parent.mkdir(parents=True)
    image.symlink_to(target)
    words = ["--entities", "500"] if command == "subset" else []
    assert cli.main([command, str(full), str(tmp_path / "part"), *words]) == 2
    assert f"{image} is a link that leads nowhere" in capsys.readouterr().err
    assert not (tmp_path / "part").exists()


def test_a_subset_without_images_has_no_table_of_them(nations: Path, tmp_path: Path) -> None:
    full = tmp_path / "full"
    shutil.copytree(nations, full, ignore=shutil.ignore_patterns("images", "images.tsv"))
    graph = read_graph(full)
    last = graph.entity_ids[int(np.flatnonzero(~densest_entities(graph, 250, 0))[0])]
    (full / "images").mkdir()
    (full / "images/a.png").write_bytes(b"pixels")
    (full / "images.tsv").write_text(f"entity\tpath\n{last}\timages/a.png\n")
    assert cli.main(["subset", str(full), str(tmp_path / "a"), "--entities", "250"]) == 0
    assert not (tmp_path / "a/images.tsv").exists()
    read_captions(tmp_path / "a")


@pytest.mark.parametrize(("count", "words"), [
    ("1", "ask for 2 to as many"), ("9999", "ask for 2 to as many"), ("3", "leave")])
def test_a_subset_that_cannot_be_is_refused(
    nations: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], count: str, words: str
) -> None:
    assert cli.main(["subset", str(nations), str(tmp_path / "a"), "--entities", count]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "a").exists()
