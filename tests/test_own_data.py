"""A newcomer's path: a table with odd names and a folder of pictures become a run that answers."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
from conftest import ROOT
from doc_commands import commands, mains, program
from PIL import Image

from caption_cache.images import find_images, read_entities
from kgc_seq2seq import cli
from kgc_seq2seq.graph.folder import read_graph
from kgc_seq2seq.graph.importers import ImportConfig, import_dataset

PRODUCTS = {
    'Café "Noir" 1/2 kg': "coffee", "抹茶 tin": "tea", "O'Brien & Söhne – filter": "paper",
    "100% cotton_bag": "cotton", "Ünïcøde (large)": "cotton", "C++ mug #1": "clay",
    "naïve/bold/poster": "paper", "Ψυχή tea": "tea", "кофе 250г": "coffee", "emoji ☕ cup": "clay",
}
PLACES = ["Paris", "東京", "São Paulo", "Zürich", "St. John's"]


def write_facts(path: Path) -> None:
    rows = []
    for number, (product, material) in enumerate(PRODUCTS.items()):
        rows.append((product, "made of", material))
        rows += [(product, "sold in", PLACES[(number + shift) % 5]) for shift in (0, 2)]
        rows.append((product, "next to", list(PRODUCTS)[(number + 1) % len(PRODUCTS)]))
    path.write_text("".join("\t".join(row) + "\n" for row in rows), "utf-8")


def write_pictures(folder: Path) -> None:
    """Pictures as shops have them: accents apart, slashes replaced, capitals, two in a folder."""
    folder.mkdir()
    called = [unicodedata.normalize("NFD", "Café _Noir_ 1-2 KG.png"), "抹茶 tin.jpg",
              "O'Brien & Söhne – filter.png", "100% cotton_bag.PNG", "C++ mug #1.png",
              "naïve_bold_poster.png"]
    for number, name in enumerate(called):
        Image.new("RGB", (16, 16), (40 * number, 90, 200)).save(folder / name)
    (folder / "Ψυχή tea").mkdir()
    for number in range(2):
        Image.new("RGB", (16, 16), (250, 40 * number, 0)).save(
            folder / "Ψυχή tea" / f"{number}.png")
    (folder / "of nothing.png").write_bytes((folder / "抹茶 tin.jpg").read_bytes())
    (folder / ".DS_Store").write_text("hidden")


def test_four_commands_make_a_run_that_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_facts(tmp_path / "facts.tsv")
    write_pictures(tmp_path / "pictures")
    steps = list(commands(ROOT / "docs" / "own-data.md"))
    assert [step.words[0] for step in steps[:4]] == ["kgc", "caption-cache", "python", "kgc"]
    said = []
    for step in steps:
        name, arguments = program(step.words)
        assert mains()[name](arguments) == 0, step
        said.append(capsys.readouterr().out)
    assert "such as 'of nothing.png'" in said[0]
    assert '(Café "Noir" 1/2 kg, made of, ?)' in said[3]
    assert (tmp_path / "runs" / "shop" / "report.html").is_file()

    graph = read_graph(Path("data/shop"))
    assert set(PRODUCTS) <= set(graph.entity_names)
    pictured = {image.entity for image in find_images(
        Path("data/shop"), read_entities(Path("data/shop")))}
    assert len(pictured) == 7
    assert 'Café "Noir" 1/2 kg' in pictured
    answers = []
    for product in PRODUCTS:
        assert cli.main(["predict", "runs/shop", "--head", product, "--relation", "made of", "-k",
                         "1", "--json"]) == 0
        answers.append(json.loads(capsys.readouterr().out)["answers"][0]["name"])
    assert all(answer in graph.entity_names for answer in answers)


def test_names_that_differ_in_signs_alone_are_not_guessed(tmp_path: Path) -> None:
    names = ["A/B", "A-B", "C", "D", "long " * 60 + "name"]
    (tmp_path / "facts.tsv").write_text("".join(
        f"{one}\tr{r}\t{two}\n" for one in names for two in names for r in range(2)))
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name in ("A_B", "A-B", "c"):  # the first could be either of two
        Image.new("RGB", (4, 4)).save(pictures / f"{name}.png")
    (pictures / ("long " * 40)).mkdir()
    report = import_dataset(ImportConfig(
        "tsv", tmp_path / "facts.tsv", tmp_path / "data", images=pictures))
    found = find_images(tmp_path / "data", read_entities(tmp_path / "data"))
    assert {image.entity for image in found} == {"A-B", "C"}
    assert any("2 files or folders of pictures belong to no entity" in note
               for note in report.notes)


def test_a_long_name_has_a_folder_that_disks_allow(tmp_path: Path) -> None:
    long = "漢字" * 60
    (tmp_path / "facts.tsv").write_text("".join(
        f"{one}\tr\t{two}\n" for one in (long, *"abcd") for two in (long, *"abcd")), "utf-8")
    Image.new("RGB", (4, 4)).save(tmp_path / "one.png")
    (tmp_path / "images.tsv").write_text(f"entity\tpath\n{long}\tone.png\n", "utf-8")
    report = import_dataset(ImportConfig(
        "tsv", tmp_path / "facts.tsv", tmp_path / "data", images=tmp_path / "images.tsv"))
    assert report.images == 1
    assert find_images(tmp_path / "data", read_entities(tmp_path / "data"))[0].entity == long
