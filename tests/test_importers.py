"""Importing public formats: tiny ones of our own, and the real files where they are at hand."""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from caption_cache.captions import read_captions
from caption_cache.columns import read_header
from caption_cache.errors import InputError
from caption_cache.images import find_images, read_entities
from caption_cache.verify import verify
from kgc_seq2seq import cli
from kgc_seq2seq.completer import Query, QueryNames
from kgc_seq2seq.graph.folder import read_graph
from kgc_seq2seq.graph.importers import FORMATS, ImportConfig, import_dataset
from kgc_seq2seq.graph.knowledge_graph import KnowledgeGraph
from kgc_seq2seq.graph.names import Policy
from kgc_seq2seq.graph.subset import subset_dataset
from kgc_seq2seq.newcomers import Newcomer, with_newcomers

SHARED = Path(os.environ.get("KGC_SHARED", ROOT.parent / "shared")) / "data"
real = pytest.mark.skipif(not SHARED.is_dir(), reason="the real data sets are not at hand")

URIS = [f"http://dbpedia.org/resource/{name}" for name in
        ["Caf%C3%A9_Noir", "AC/DC", "東京", "دمشق", "Rock_(music)"]]
OPENKE = {
    "entity2id.txt": "5\n" + "".join(f"<{uri}>\t{i}\n" for i, uri in enumerate(URIS)),
    "relation2id.txt": "2\n<http://dbpedia.org/ontology/birthPlace> 0\n"
                       "<http://www.w3.org/2000/01/rdf-schema#seeAlso> 1\n",
    "train2id.txt": "3\n0 4 1\n1 4 0\n2 3 1\n",
    "valid2id.txt": "1\n3 2 1\n",
    "test2id.txt": "1\n4 1 0\n",
}
MOMOK = {
    "entity2id.txt": "http://www.wikidata.org/entity/Q2 0\nhttp://www.wikidata.org/entity/Q1 1\n"
                     "http://www.wikidata.org/entity/Q3 2\n",
    "relation2id.txt": "http://www.wikidata.org/entity/P31 0\n",
    "entity_links.txt": "http://dbpedia.org/resource/Uni_verse\thttp://www.wikidata.org/entity/Q1\n"
                        "http://dbpedia.org/resource/Two\thttp://www.wikidata.org/entity/Q2\n"
                        "http://dbpedia.org/resource/Three\thttp://www.wikidata.org/entity/Q3\n",
    "relation_links.txt": "instance of\n",
    **{f"{split}.txt": "http://www.wikidata.org/entity/Q1 http://www.wikidata.org/entity/P31 "
                       f"http://www.wikidata.org/entity/{tail} .\n"
       for split, tail in (("train", "Q2"), ("valid", "Q3"), ("test", "Q1"))},
}
MYGO = {
    "entities.txt": "0\n1\n2\n3\n", "relations.txt": "0\n1\n",
    "train.txt": "3\t0\t1\n2\t1\t3\n", "valid.txt": "0\t0\t3\n", "test.txt": "1\t1\t2\n",
}
KGBERT = {
    "entity2text.txt": "01\tdog, a domestic animal\n02\tdog, a bad fellow\n03\tcat, a small animal",
    "relation2text.txt": "_hypernym\thypernym\n_also_see\talso see",
    "train.tsv": "01\t_hypernym\t03\n02\t_also_see\t01\n", "dev.tsv": "01\t_hypernym\t02\n",
    "test.tsv": "03\t_hypernym\t02\n",
}
TSV = {
    "train.tsv": "head\trelation\ttail\nAda Lovelace\tworkedWith\tBabbage\n"
                 "Babbage\tisA\tmathematician\nAda Lovelace\tisA\tmathematician\n",
    "valid.tsv": "Babbage\tworkedWith\tAda Lovelace\n", "test.tsv": "mathematician\tisA\tjob\n",
}
SOURCES = {"openke": OPENKE, "momok": MOMOK, "mygo": MYGO, "kgbert": KGBERT, "tsv": TSV}

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write the files of a format, some of them changed, and give the folder."""
    def write(format: str, **changes: str | bytes | None) -> Path:
        folder = tmp_path / "source"
        folder.mkdir(exist_ok=True)
        files: dict[str, Any] = {**SOURCES[format]}
        files |= {key.replace("__", "."): value for key, value in changes.items()}
        for name, content in files.items():
            if content is not None:
                (folder / name).write_bytes(
                    content if isinstance(content, bytes) else content.encode())
        return folder
    return write


def imported(source: Path, format: str, **options: Any) -> KnowledgeGraph:
    out = source.parent / "out"
    import_dataset(ImportConfig(format, source, out, **options))
    return read_graph(out)


def test_the_command_line_knows_every_format() -> None:
    help_text = cli._parser()._commands.choices["import"].format_help()  # type: ignore[union-attr]
    assert all(name in help_text for name in FORMATS)


def test_openke_names_come_from_uris(write: Write) -> None:
    graph = imported(write("openke"), "openke")
    assert graph.entity_ids == ("Caf%C3%A9_Noir", "AC/DC", "東京", "دمشق", "Rock_(music)")
    assert graph.entity_names == ("Café Noir", "AC/DC", "東京", "دمشق", "Rock (music)")
    assert graph.relation_names[:2] == ("birth place", "see also")
    assert graph.train.tolist() == [[0, 1, 4], [1, 0, 4], [2, 1, 3]]


def test_openke_without_names_takes_the_numbers(write: Write) -> None:
    source = write("openke", entity2id__txt="5", relation2id__txt="2\n")
    report = import_dataset(ImportConfig("openke", source, source.parent / "out"))
    assert read_graph(source.parent / "out").entity_names == ("0", "1", "2", "3", "4")
    assert any("--names" in note for note in report.notes)


def test_momok_keeps_the_order_of_the_table_and_takes_names_from_links(write: Write) -> None:
    graph = imported(write("momok"), "momok")
    assert graph.entity_ids == ("Q2", "Q1", "Q3")
    assert graph.entity_names == ("Two", "Uni verse", "Three")
    assert graph.relation_names[0] == "instance of"
    assert graph.train.tolist() == [[1, 0, 0]]


def test_mygo_reads_numbers_and_ids_alike(write: Write) -> None:
    graph = imported(write("mygo"), "mygo")
    assert graph.train.tolist() == [[3, 0, 1], [2, 1, 3]]
    named = write("mygo", entities__txt="b\na\nd\nc\n", relations__txt="r\ns\n",
                  train__txt="c r a\nd s c\n", valid__txt="b r c\n", test__txt="a s d\n")
    out = named.parent / "named"
    import_dataset(ImportConfig("mygo", named, out))
    assert np.array_equal(read_graph(out).train, graph.train)


def test_kgbert_parts_lemma_and_definition(write: Write) -> None:
    graph = imported(write("kgbert"), "kgbert", on_collision=Policy.DESCRIPTION)
    assert graph.entity_names == ("dog (a domestic animal)", "dog (a bad fellow)", "cat")
    assert graph.entity_descriptions[2] == "a small animal"
    assert graph.relation_names[:2] == ("hypernym", "also see")


def test_kgbert_with_long_texts_keeps_commas_in_names(write: Write) -> None:
    source = write("kgbert", entity2text__txt="01\tWashington, D.C.\n02\tParis, Texas\n03\tX, Y\n",
                   entity2textlong__txt="01\tA capital.\n03\tA place.\n")
    graph = imported(source, "kgbert")
    assert graph.entity_names == ("Washington, D.C.", "Paris, Texas", "X, Y")
    assert graph.entity_descriptions == ("A capital.", "", "A place.")


def test_tsv_takes_any_names_and_a_header(write: Write) -> None:
    graph = imported(write("tsv"), "tsv")
    assert graph.entity_names == ("Ada Lovelace", "Babbage", "mathematician", "job")
    assert graph.relation_names[:2] == ("worked with", "is a")
    assert graph.train.tolist() == [[0, 0, 1], [1, 1, 2], [0, 1, 2]]


def test_one_file_is_parted_with_nothing_unseen(tmp_path: Path) -> None:
    file = tmp_path / "all.tsv"
    facts = [f"e{h}\tr\tt{t}\n" for h in range(12) for t in range(12)]
    file.write_text("".join([*facts, *facts[:3]]))
    out = tmp_path / "out"
    report = import_dataset(ImportConfig("tsv", file, out))
    assert any(note.startswith("3 lines say what another says") for note in report.notes)
    graph = read_graph(out)
    assert report.triples == {"train": 116, "valid": 14, "test": 14}
    assert set(graph.train[:, [0, 2]].ravel()) == set(range(24))
    assert "seed 0" in json.loads((out / "dataset.json").read_text())["splits"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_hugging_face_datasets_are_read_from_the_disk(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = {"head": ["a b", "c"], "relation": ["isA", "isA"], "tail": ["c", "d"]}
    parts = {split: datasets.Dataset.from_dict(rows) for split in ("train", "validation", "test")}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "hub")
    graph = imported(tmp_path / "hub", "datasets")
    assert graph.entity_names == ("a b", "c", "d")
    assert graph.valid.tolist() == [[0, 0, 1], [1, 0, 2]]
    label = datasets.ClassLabel(names=["isA", "likes"])
    parts = {split: part.cast_column("relation", label) for split, part in parts.items()}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "labels")
    import_dataset(ImportConfig("datasets", tmp_path / "labels", tmp_path / "labelled"))
    assert read_graph(tmp_path / "labelled").relation_ids == ("isA",)
    renamed = datasets.Dataset.from_dict({"subject": ["a"], "relation": ["r"], "tail": ["b"]})
    renamed.save_to_disk(tmp_path / "renamed")
    with pytest.raises(InputError, match="no column 'head'"):
        import_dataset(ImportConfig("datasets", tmp_path / "renamed", tmp_path / "new"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("name", "taken"), [
    ("東京タワー", "東京タワー"), ("שלום עולם", "שלום עולם"), ("مرحبا", "مرحبا"),
    ("👩‍👩‍👧", "👩‍👩‍👧"), ("Ω" * 500, "Ω" * 500), ('say "hi", O\'Hara', 'say "hi", O\'Hara'),
    ("two  spaces ", "two spaces"), ("no-break\u00a0space", "no-break space"),
    ("a\tb", None), ("a\nb", None), ("a\x00b", None), ("a\x85b", None), ("a\u2028b", None),
    ("", None), ("  ", None),
])
def test_any_name_works_or_is_refused_with_a_sentence(
    tmp_path: Path, name: str, taken: str | None
) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({
        "head": [name] * 9 + [f"h {i}" for i in range(9) for _ in range(9)],
        "relation": ["r"] * 90, "tail": [f"t {i % 9}" for i in range(90)],
    }).save_to_disk(tmp_path / "hub")
    config = ImportConfig("datasets", tmp_path / "hub", tmp_path / "out")
    if taken is None:
        with pytest.raises(InputError) as caught:
            import_dataset(config)
        assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()
    else:
        import_dataset(config)
        assert taken in read_graph(tmp_path / "out").entity_names


def test_names_that_a_tokenizer_cannot_tell_apart_collide(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from kgc_seq2seq.text.tokenizer import TokenizerConfig, train_tokenizer

    tokenizer = str(tmp_path / "t5")
    train_tokenizer({"abcd efgh 0123 ( )": 9}, TokenizerConfig(pieces=30, words=0)
                    ).save_pretrained(tokenizer)
    source = write("mygo", entities__txt="a\nb\nc\n山\n", relations__txt="r\n", **{
        f"{split}__txt": "a r b\nc r 山\n" for split in ("train", "valid", "test")})
    words = ["import", "mygo", str(source), str(tmp_path / "out"), "--tokenizer", tokenizer]
    names = tmp_path / "names.tsv"
    names.write_text("id\tname\na\tab\nb\tbc\nc\tcd\n山\t</s>\n")
    assert cli.main([*words, "--names", str(names)]) == 2
    assert "1 names have no tokens, or hold marks of the tokenizer's own, such as '</s>'" in (
        capsys.readouterr().err)
    names.write_text("id\tname\na\tab\nb\tab\nc\t川\n山\t山\n")  # no letter is one too many
    assert cli.main([*words, "--names", str(names)]) == 2
    assert "2 entities share their name" in capsys.readouterr().err
    assert cli.main([*words, "--names", str(names), "--on-collision", "id"]) == 0
    assert read_graph(tmp_path / "out").entity_names == ("ab (a)", "ab (b)", "川", "山")


def test_a_dataset_that_cannot_be_found_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be loaded as a Hugging Face dataset"):
        import_dataset(ImportConfig("datasets", Path("nobody/nothing"), tmp_path / "out"))
    table = tmp_path / "facts.jsonl"
    table.write_text("{}\n")
    with pytest.raises(InputError, match="is a file; give the folder that holds it"):
        import_dataset(ImportConfig("datasets", table, tmp_path / "out"))


@pytest.mark.parametrize(("format", "changes", "words"), [
    ("openke", {"train2id__txt": "4\n0 4 1\n1 4 0\n2 3 1\n"}, ["train2id.txt, line 1", "4", "3"]),
    ("openke", {"train2id__txt": "0 4 1\n"}, ["train2id.txt, line 1", "no count"]),
    ("openke", {"train2id__txt": "1\n0 9 1\n"}, ["train2id.txt, line 2", "9 is out of range"]),
    ("openke", {"train2id__txt": "1\n0 -1 1\n"}, ["train2id.txt, line 2", "'-1'"]),
    ("openke", {"train2id__txt": "2\n0 1 1\n0 x 1\n"}, ["train2id.txt, line 3", "'x'"]),
    ("openke", {"train2id__txt": "2\n0 1 1\n0 1\n"}, ["train2id.txt, line 3", "2 cells"]),
    ("openke", {"train2id__txt": "1\n0 1 4\n", "valid2id__txt": "1\n0 1 4\n"},
     ["train2id.txt", "only h r t", "--order hrt"]),
    ("openke", {"test2id__txt": None}, ["no test2id.txt"]),
    ("openke", {"entity2id__txt": "5\na 0\nb 1\nc 2\nd 3\ne 3\n"},
     ["entity2id.txt, line 6", "3", "line 5"]),
    ("openke", {"entity2id__txt": "5\na 0\nb 1\nc 2\nd 3\na 4\n"}, ["entity2id.txt", "'a'"]),
    ("openke", {"entity2id__txt": b"1\n\xe9 0\n"}, ["entity2id.txt, line 2", "UTF-8"]),
    ("momok", {"train__txt": "http://www.wikidata.org/entity/Q1 a b .\n"},
     ["train.txt, line 1", "relation 'a'"]),
    ("momok", {"train__txt": MOMOK["train.txt"] + MOMOK["train.txt"][:-3] + "\n"},
     ["train.txt, line 2", "3 cells"]),
    ("momok", {"train__txt": MOMOK["train.txt"] + MOMOK["train.txt"].replace(" .", " x")},
     ["train.txt, line 2", "the dot"]),
    ("mygo", {"train__txt": "3\t1\t1\n2\t9\t3\n"}, ["train.txt, line 2", "'9'"]),
    ("mygo", {"train__txt": "3\t3\t1\n"}, ["train.txt", "only h t r", "--order htr"]),
    ("mygo", {"entities__txt": "0\n\n2\n3\n"}, ["entities.txt, line 2", "empty"]),
    ("kgbert", {}, ["2 entities", "'dog'", "--on-collision"]),
    ("kgbert", {"train__tsv": "01\t_hypernym\t04\n"}, ["train.tsv, line 1", "'04'"]),
    ("kgbert", {"entity2text__txt": "01\tbe\x07ep\n02\tx\n03\ty\n"}, ["control character"]),
    ("tsv", {"train__tsv": "a\tb\tr\nb\tc\tr\n"}, ["train.tsv", "--order htr"]),
    ("tsv", {"train__tsv": "a\tr\t\n"}, ["train.tsv, line 1", "empty"]),
    ("tsv", {"train__tsv": ""}, ["train.tsv", "no triple"]),
    ("tsv", {"train__tsv": "<a>\t<r>\t<b> .\n<b>\t<r>\t\"a text\"@en .\n"},
     ["train.tsv is N-Triples", "delete these dots"]),
    ("tsv", {"valid__tsv": None}, ["no valid.tsv"]),
])
def test_bad_sources_are_refused_with_a_sentence_and_leave_nothing(
    write: Write, format: str, changes: dict[str, Any], words: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = write(format, **changes)
    out = source.parent / "out"
    assert cli.main(["import", format, str(source), str(out)]) == 2
    sentence = capsys.readouterr().err.strip()
    assert "\n" not in sentence
    assert all(word in sentence for word in words), sentence
    assert sorted(path.name for path in source.parent.iterdir()) == ["source"]


def test_an_order_that_both_columns_allow_is_noted(write: Write) -> None:
    source = write("openke", train2id__txt="1\n0 1 1\n")
    report = import_dataset(ImportConfig("openke", source, source.parent / "out"))
    assert any("train2id.txt" in note and "h r t" in note for note in report.notes)


def test_what_is_said_of_the_splits_is_of_the_splits(tmp_path: Path) -> None:
    (tmp_path / "facts.tsv").write_text("".join(
        f"thing {i}\tnear\tthing {(i + step) % 24}\n" for i in range(24) for step in (1, 5, 7)))
    (tmp_path / "pictures").mkdir()
    for name in ("thing 1", "stranger"):
        (tmp_path / "pictures" / f"{name}.png").write_bytes(b"pixels")
        (tmp_path / "pictures" / f"{name}.png").chmod(0o400)
    import_dataset(ImportConfig("tsv", tmp_path / "facts.tsv", tmp_path / "out",
                                images=tmp_path / "pictures"))
    about = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert "drawn from it with seed 0" in about["splits"]
    assert any("stranger" in note for note in about["notes"])
    private = tmp_path / "pictures" / "thing 1.png"
    assert private.stat().st_nlink == 2 and private.stat().st_mode & 0o777 == 0o400


@pytest.mark.parametrize(("first", "facts", "noted"), [
    ("source\trelation\ttarget\n", 72, False), ("product\tproperty\tvalue\n", 73, True),
    ("", 72, False)])
def test_a_header_is_no_fact_and_what_looks_like_one_is_noted(
    tmp_path: Path, first: str, facts: int, noted: bool
) -> None:
    path = tmp_path / "facts.tsv"
    path.write_text(first + "".join(
        f"thing {i}\tnear\tthing {(i + step) % 24}\n" for i in range(24) for step in (1, 5, 7)))
    report = import_dataset(ImportConfig("tsv", path, tmp_path / "out"))
    assert sum(report.triples.values()) == facts
    assert any("line 1 of facts.tsv, product | property | value" in note
               for note in report.notes) == noted


def test_a_query_may_use_the_whole_of_a_uri_whose_end_is_the_id(tmp_path: Path) -> None:
    shop = "https://shop.example/"
    path = tmp_path / "facts.tsv"
    path.write_text("".join(f"{shop}p/{i}\t{shop}terms/near\t{shop}p/{(i + step) % 24}\n"
                            for i in range(24) for step in (1, 5, 7)))
    report = import_dataset(ImportConfig("tsv", path, tmp_path / "out"))
    assert any(f"such as 0 for {shop}p/0" in note for note in report.notes)
    names = QueryNames(read_graph(tmp_path / "out"))
    assert names.resolve(Query(f"{shop}p/7", f"{shop}terms/near")) == (
        names.resolve(Query("7", "near")))
    with pytest.raises(InputError, match=r"No entity is called 'https://shop.example/p/99'"):
        names.entities[f"{shop}p/99"]


def test_a_name_is_found_however_its_letters_are_composed(tmp_path: Path) -> None:
    path = tmp_path / "facts.tsv"
    path.write_text("".join(f"Café {i}\tnear\tCafé {(i + step) % 24}\n"
                            for i in range(24) for step in (1, 5, 7)), "utf-8")
    import_dataset(ImportConfig("tsv", path, tmp_path / "out"))
    graph = read_graph(tmp_path / "out")
    apart = unicodedata.normalize("NFD", "CAFÉ 7")
    names = QueryNames(graph)
    assert graph.entity_names[names.entities[apart]] == "Café 7"
    with pytest.raises(InputError, match="is called as one that is there"):
        with_newcomers(graph, [Newcomer(apart)], names.relations.__getitem__,
                       names.entities.__getitem__)


def test_a_stated_order_is_followed(write: Write) -> None:
    source = write("openke", **{f"{split}2id__txt": "1\n0 1 4\n"
                                for split in ("train", "valid", "test")})
    assert imported(source, "openke", order="hrt").train.tolist() == [[0, 1, 4]]


def test_the_first_line_tells_the_order(write: Write) -> None:
    def turned(text: str) -> str:
        return "".join(f"{h}\t{t}\t{r}\n" for h, r, t in
                       (line.split("\t") for line in text.splitlines()))

    plain = imported(write("tsv"), "tsv")
    source = write("tsv", train__tsv=turned(TSV["train.tsv"]), valid__tsv=turned(TSV["valid.tsv"]),
                   test__tsv=turned(TSV["test.tsv"]))
    assert read_header(source / "train.tsv") == ["head", "tail", "relation"]
    import_dataset(ImportConfig("tsv", source, source.parent / "turned"))
    graph = read_graph(source.parent / "turned")
    assert graph.relation_names == plain.relation_names
    assert np.array_equal(graph.train, plain.train)
    with pytest.raises(InputError, match=r"train.tsv, line 1: .* called h, t, r, .* h, r, t of"):
        import_dataset(ImportConfig("tsv", source, source.parent / "other", order="hrt"))
    source = write("tsv", train__tsv="relation\thead\ttail\nisA\ta\tb\n")
    with pytest.raises(InputError, match="must be head, relation, tail or head, tail, relation"):
        import_dataset(ImportConfig("tsv", source, source.parent / "other"))


@pytest.mark.parametrize("shares", [(10.0, 0.1), (0.5, 0.5), (-0.1, 0.1), (0.1, 0.0)])
def test_shares_are_checked(shares: tuple[float, float]) -> None:
    with pytest.raises(InputError, match="between 0 and 1"):
        ImportConfig("tsv", Path("in"), Path("out"), valid=shares[0], test=shares[1])


def test_an_existing_folder_is_never_overwritten(write: Write) -> None:
    source = write("tsv")
    out = source.parent / "out"
    out.mkdir()
    (out / "precious").write_text("mine")
    with pytest.raises(InputError, match="there already"):
        import_dataset(ImportConfig("tsv", source, out))
    assert (out / "precious").read_text() == "mine"


@pytest.mark.parametrize("change", [
    lambda text: text.replace("\n", "\r\n"),
    lambda text: "\ufeff" + text,
    lambda text: text.rstrip("\n"),
    lambda text: text + "\n\n",
    lambda text: text.replace("\n", " \n"),
], ids=["CRLF", "byte order mark", "no last newline", "empty lines", "blanks"])
@pytest.mark.parametrize("format", ["openke", "momok", "mygo"])
def test_harmless_differences_change_nothing(
    write: Write, format: str, change: Callable[[str], str]
) -> None:
    plain = imported(write(format), format)
    changed = write(format, **{name.replace(".", "__"): change(text)
                               for name, text in SOURCES[format].items()})
    out = changed.parent / "changed"
    import_dataset(ImportConfig(format, changed, out))
    graph = read_graph(out)
    assert graph.entity_names == plain.entity_names
    assert np.array_equal(graph.train, plain.train)


def test_names_texts_and_images_come_from_tables(write: Write, tmp_path: Path) -> None:
    from PIL import Image

    names = tmp_path / "names.tsv"
    names.write_text("id\tname\nQ1\tthe One\nhttp://www.wikidata.org/entity/Q2\tthe  Two\n"
                     "Q9\tnobody\n")
    texts = tmp_path / "texts.tsv"
    texts.write_text("key\tcaption\tdescription\nQ2\ta red square\t\nQ3\t\tthird of all\n")
    pictures = tmp_path / "pictures.tsv"
    (tmp_path / "raw").mkdir()
    for place, colour in enumerate(["red", "blue"]):
        Image.new("RGB", (4, 4), colour).save(tmp_path / "raw" / f"{place}.png")
    pictures.write_text("Q2\traw/0.png\nQ2\traw/1.png\n")
    source = write("momok", entity_links__txt=None)
    out = tmp_path / "out"
    report = import_dataset(ImportConfig("momok", source, out, names=names, texts=texts,
                                         images=pictures))
    graph = read_graph(out)
    assert graph.entity_names == ("the Two", "the One", "Q3")
    assert graph.entity_descriptions == ("", "", "third of all")
    assert read_captions(out).texts == {"Q2": "a red square"}
    assert [image.path for image in find_images(out, read_entities(out))] == [
        "images/Q2/0.png", "images/Q2/1.png"]
    assert (report.images, report.captions) == (2, 1)
    assert any("1 lines of names.tsv belong to none" in note for note in report.notes)


def test_names_beside_ids_need_tabs(write: Write, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("Q2 Two\nQ1 One\nQ3 Three\n")  # not one name a line, in the order of ids
    with pytest.raises(InputError, match=r"names\.txt, line 1: 1 .* where 2 are expected"):
        import_dataset(ImportConfig("momok", write("momok"), tmp_path / "out", names=names))


def test_names_that_a_table_lacks_are_those_of_the_format(write: Write, tmp_path: Path) -> None:
    names, relations = tmp_path / "names.tsv", tmp_path / "relations.tsv"
    names.write_text("id\tname\nQ1\tthe One\nQ2\t\n")
    out = tmp_path / "momok"
    report = import_dataset(ImportConfig("momok", write("momok"), out, names=names))
    assert read_graph(out).entity_names == ("Two", "the One", "Three")
    assert report.notes[-1:] == ["1 of the entities are not in names.tsv"]
    relations.write_text("_hypernym\tis a kind of\n")
    source = write("kgbert", relation2text__txt="_hypernym\thypernym\n_also_see\tsee too")
    graph = imported(source, "kgbert", relation_names=relations, on_collision=Policy.ID)
    assert graph.relation_names[:2] == ("is a kind of", "see too")


def test_an_image_never_takes_the_place_of_another(write: Write, tmp_path: Path) -> None:
    files = ["raw/2-x.png", "raw/x.png", "more/x.png"]
    for place, name in enumerate(files):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(str(place))
    table = tmp_path / "pictures.tsv"
    table.write_text("".join(f"Q1\t{name}\n" for name in files))
    out = tmp_path / "out"
    import_dataset(ImportConfig("momok", write("momok"), out, images=table))
    paths = [image.path for image in find_images(out, read_entities(out))]
    assert sorted((out / path).read_text() for path in paths) == ["0", "1", "2"]
    assert [(tmp_path / name).read_text() for name in files] == ["0", "1", "2"]


def test_a_caption_counts_until_its_entity_has_an_image(write: Write, tmp_path: Path) -> None:
    from PIL import Image

    texts = tmp_path / "texts.tsv"
    texts.write_text("id\tcaption\nQ1\tone  word\nQ2\ttwo words\nQ3\tthree words\n")
    (tmp_path / "pictures/Q2").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(tmp_path / "pictures/Q2/a.png")
    out = tmp_path / "out"
    import_dataset(ImportConfig("momok", write("momok"), out, texts=texts,
                                images=tmp_path / "pictures"))
    said = {"Q1": "one word", "Q2": "two words", "Q3": "three words"}
    assert read_captions(out).texts == said
    assert list(read_captions(out).texts)[0] == "Q2"  # noqa: RUF015
    assert verify(out) == (3, [])
    (out / "images/Q3").mkdir()
    Image.new("RGB", (4, 4)).save(out / "images/Q3/a.png")
    with (out / "images.tsv").open("a") as table:
        table.write("Q3\timages/Q3/a.png\n")
    assert read_captions(out).texts == {key: said[key] for key in ("Q1", "Q2")}
    [finding] = verify(out)[1]
    assert finding.where == "imported:Q3"
    assert "import its caption again" in finding.problem


def test_images_come_from_folders_even_of_ids_that_are_no_file_names(
    write: Write, tmp_path: Path
) -> None:
    from PIL import Image

    pictures = tmp_path / "pictures"
    for name in ("AC%2FDC", "東京"):
        (pictures / name).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(pictures / name / "1.png")
    source = write("openke")
    out = tmp_path / "out"
    import_dataset(ImportConfig("openke", source, out, images=pictures))
    found = find_images(out, read_entities(out))
    assert [image.entity for image in found] == ["AC/DC", "東京"]
    assert all((out / image.path).is_file() for image in found)


@pytest.mark.parametrize("name", [b"caf\xe9.png", b"Q1/caf\xe9.png", b"caf\xe9/1.png"])
def test_an_image_whose_name_is_not_utf8_is_refused(
    write: Write, tmp_path: Path, name: bytes
) -> None:
    image = tmp_path / "pictures" / os.fsdecode(name)
    image.parent.mkdir(parents=True)
    image.touch()
    with pytest.raises(InputError, match=r"the name 'caf\\udce9.*' holds characters"):
        imported(write("momok"), "momok", images=tmp_path / "pictures")


def test_an_image_that_is_a_link_to_nowhere_is_refused(write: Write, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/Q1.png").symlink_to("nowhere")
    with pytest.raises(InputError, match=r"pictures/Q1.png is a link that leads nowhere"):
        imported(write("momok"), "momok", images=tmp_path / "pictures")


@pytest.mark.parametrize(("option", "text", "words"), [
    ("names", "id\tname\nX1\tnobody\n", ["names.tsv", "no column holds the ids"]),
    ("names", "id\tname\nQ1\ta\nQ1\tb\n", ["names.tsv, line 3", "'Q1'", "line 2"]),
    ("names", "one\ntwo\nthree\n", ["names.tsv, line 1", "cells"]),
    ("relation_names", "a\nb\nc\nd\ne\n", ["names.tsv", "5 names for"]),
    ("texts", "Q1\n", ["names.tsv", "cells"]),
    ("texts", "Q1\ta thing\n", ["names.tsv, line 1", "description or caption"]),
    ("images", "Q1\tnowhere.png\n", ["names.tsv, line 1", "nowhere.png"]),
])
def test_bad_tables_are_refused(
    write: Write, tmp_path: Path, option: str, text: str, words: list[str]
) -> None:
    table = tmp_path / "names.tsv"
    table.write_text(text)
    with pytest.raises(InputError) as caught:
        imported(write("momok"), "momok", **{option: table})
    assert all(word in str(caught.value) for word in words), caught.value
    assert not (tmp_path / "out").exists()


def test_the_command_line_imports_and_reports(
    write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write("kgbert")
    words = ["import", "kgbert", str(source), str(source.parent / "out"), "--on-collision", "id"]
    assert cli.main([*words, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["entities"] == 3
    assert report["collisions"] == [
        {"name": "dog", "ids": ["01", "02"], "became": ["dog (01)", "dog (02)"]}]
    assert cli.main([*words[:3], str(source.parent / "two"), *words[4:]]) == 0
    assert "2 entities shared 1 names" in capsys.readouterr().out
    assert (source.parent / "out" / "collisions.tsv").read_text().startswith("name\tid\tbecame\n")


@settings(max_examples=250)
@given(st.sampled_from(sorted(SOURCES)), st.integers(0, 10**6), st.integers(0, 10**6),
       st.sampled_from([b"", b"\xe9", b"\0", b"\t", b" ", b"\n", b"9", b"\r", b"-"]),
       st.integers(0, 2), st.booleans())
def test_mutilated_sources_are_refused_or_read_whole(
    format: str, which: int, place: int, put: bytes, taken: int, cut: bool
) -> None:
    files = {name: text.encode() for name, text in SOURCES[format].items()}
    name = sorted(files)[which % len(files)]
    place %= len(files[name])
    files[name] = files[name][:place] + (b"" if cut else put + files[name][place + taken:])
    with TemporaryDirectory() as folder:
        source = Path(folder) / "source"
        source.mkdir()
        for file, data in files.items():
            (source / file).write_bytes(data)
        try:
            report = import_dataset(ImportConfig(format, source, Path(folder) / "out",
                                                 on_collision=Policy.ID))
        except InputError as error:
            assert "\n" not in str(error)
            assert sorted(path.name for path in Path(folder).iterdir()) == ["source"]
            return
        for split in ("train", "valid", "test"):
            stem = "dev" if format == "kgbert" and split == "valid" else split
            path = next(path for path in files if path.startswith(stem))
            lines = files[path].rstrip(b"\r\n").count(b"\n") + 1
            header = {cell.strip() for cell in files[path].decode().split("\n")[0].split("\t")}
            headers = format == "openke" or header == {"head", "relation", "tail"}
            assert report.triples[split] == lines - headers
        assert read_graph(Path(folder) / "out").num_entities == report.entities


@real
@pytest.mark.parametrize(("format", "name", "sizes"), [
    ("momok", "MKG-W", (15000, 169, 34196, 4276, 4274)),
    ("momok", "MKG-Y", (15000, 28, 21310, 2665, 2663)),
    ("openke", "DB15K", (12842, 279, 79222, 9904, 9902)),
    ("openke", "faulty/LBMKGC-MKG-W", (15000, 169, 34196, 4276, 4274)),
])
def test_real_files_are_read_whole(
    tmp_path: Path, format: str, name: str, sizes: tuple[int, ...]
) -> None:
    out = tmp_path / "out"
    import_dataset(ImportConfig(format, SHARED / name, out))
    graph = read_graph(out)
    assert (graph.num_entities, graph.num_relations, len(graph.train), len(graph.valid),
            len(graph.test)) == sizes
    lines = (SHARED / name / ("train.txt" if format == "momok" else "train2id.txt")
             ).read_text("utf-8").splitlines()
    head, second, third = lines[-1].split()[:3]
    row = graph.train[-1].tolist()
    if format == "openke":
        assert row == [int(head), int(third), int(second)]
    else:
        assert [graph.entity_ids[row[0]], graph.entity_ids[row[2]]] == [
            text.rsplit("/", 1)[-1] for text in (head, third)]


def test_what_says_the_same_is_drawn_into_one_split(tmp_path: Path) -> None:
    rows = [(f"p{parent}", f"c{child}") for parent in range(10) for child in range(10)]
    (tmp_path / "facts.tsv").write_text("head\trelation\ttail\n" + "".join(
        f"{parent}\tparent of\t{child}\n{child}\tchild of\t{parent}\n" for parent, child in rows))
    import_dataset(ImportConfig("tsv", tmp_path / "facts.tsv", tmp_path / "out"))
    graph = read_graph(tmp_path / "out")
    assert len(graph.valid) == len(graph.test) == 20
    assert not graph.linked_in_train(np.concatenate([graph.valid, graph.test])).any()


def test_splits_are_not_drawn_anew_under_names_that_tell_facts(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "entity2text.txt").write_text("".join(
        f"e{i}\t{'Springfield' if i < 2 else f'place {i}'}\n" for i in range(9)))
    (source / "relation2text.txt").write_text("in\tlocated in\n")
    facts = [f"e{i}\tin\te{j}\n" for i in range(9) for j in range(9) if i != j and j - i != 1]
    for split, part in (("train", facts[4:]), ("dev", facts[:2]), ("test", facts[2:4])):
        (source / f"{split}.tsv").write_text("".join(part))
    for policy, refused in ((Policy.ID, False), (Policy.RELATION_HINT, True)):
        out = tmp_path / policy
        import_dataset(ImportConfig("kgbert", source, out, on_collision=policy))
        subset_dataset(out, tmp_path / f"{policy} part", 9)  # which keeps these names
        for folder in (out, tmp_path / f"{policy} part"):
            again = ["split", str(folder), f"{folder} again", "--valid", "0.2", "--test", "0.2"]
            assert cli.main(again) == (2 if refused else 0)


def test_names_tell_no_fact_that_is_asked(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "entity2text.txt").write_text(
        "s1\tSpringfield\ns2\tSpringfield\nc1\tHartford\nc2\tSalem\nc3\tBoston\n")
    (source / "relation2text.txt").write_text("partner\tpartner of\nin\tlocated in\n")
    # Hartford is the best known, and test asks for it the other way round.
    (source / "train.tsv").write_text("s1\tpartner\tc1\ns1\tin\tc2\ns2\tin\tc3\nc1\tin\tc2\n")
    (source / "dev.tsv").write_text("c2\tin\tc3\n")
    (source / "test.tsv").write_text("c1\tpartner\ts1\n")
    graph = imported(source, "kgbert", on_collision=Policy.RELATION_HINT)
    assert graph.entity_names[:2] == ("Springfield (located in Salem)",
                                      "Springfield (located in Boston)")


@real
def test_a_real_graph_in_the_other_order_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be h r t, only h t r"):
        import_dataset(ImportConfig("openke", SHARED / "DB15K", tmp_path / "o", order="hrt"))


@real
@pytest.mark.parametrize("policy", ["description", "relation-hint", "id"])
def test_wordnet_without_senses_gets_a_name_for_each(tmp_path: Path, policy: str) -> None:
    source = SHARED / "WN18RR"
    with pytest.raises(InputError, match="12,873 entities share their name"):
        import_dataset(ImportConfig("kgbert", source, tmp_path / "error"))
    report = import_dataset(ImportConfig("kgbert", source, tmp_path / "out",
                                         on_collision=Policy(policy)))
    assert sum(len(group.ids) for group in report.collisions) == 12873
    graph = read_graph(tmp_path / "out")
    assert len(set(graph.entity_names)) == graph.num_entities == 40943
    by_id = sum(f"({key})" in name for key, name in zip(graph.entity_ids, graph.entity_names,
                                                        strict=True))
    assert by_id == 12873 if policy == "id" else by_id < 1000
