"""Mentions: found as by brute force, kept with their ids, and worth what train says they are."""

from __future__ import annotations

import itertools
import json
import math
import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import TINY, random_graph
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch.nn import functional

from caption_cache.errors import InputError
from kgc_seq2seq import train_scorer
from kgc_seq2seq.cli import main
from kgc_seq2seq.graph.folder import read_graph
from kgc_seq2seq.graph.knowledge_graph import KnowledgeGraph
from kgc_seq2seq.scorers.features import mentions as finding
from kgc_seq2seq.scorers.features.mentions import LEAST, find_mentions
from kgc_seq2seq.scorers.ids import pack
from kgc_seq2seq.scorers.mention_scorer import MentionConfig, MentionScorer
from kgc_seq2seq.scorers.mentions import Mentions, read_mentions, write_mentions
from kgc_seq2seq.scorers.scorer import EntityScorer, Vocabulary

WORDS = st.lists(st.sampled_from(["ann", "Bo", "the", "cat", "(old)", "of", "-"]), max_size=6)
TEXTS = WORDS.map(" ".join)


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def terms(text: str) -> set[str]:
    said = words(text)
    return {*said, *(f"{one} {other}" for one, other in itertools.pairwise(said))}


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=8), st.integers(1, 3))
def test_mentions_are_those_of_a_brute_force_search(
    pairs: list[tuple[str, str]], at_once: int
) -> None:
    names, texts = ([f"{pair[place]} x" for pair in pairs] for place in (0, 1))
    names[0] += " (1948 film)"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finding, "AT_ONCE", at_once)
        found = find_mentions(names, texts, show_progress=False)
    names[0] = names[0].removesuffix(" (1948 film)")
    count = Counter(term for text in (*names, *texts) for term in terms(text))
    weight = {term: math.log((1 + 2 * len(names)) / (1 + n)) + 1 for term, n in count.items()}
    expected, rarity = {}, []
    for text in range(len(texts)):
        for name in range(len(names)):
            whole = sum(weight[term] for term in terms(names[name]))
            there = sum(weight[term] for term in terms(names[name]) & terms(texts[text]))
            if text != name and there / whole >= LEAST:
                expected[text, name] = there / whole
                rarity.append(there / math.log(1 + 2 * len(names)))
    assert dict(zip(zip(found.text.tolist(), found.name.tolist(), strict=True),
                    found.share.tolist(), strict=True)) == pytest.approx(expected, abs=1e-5)
    assert found.rarity.tolist() == pytest.approx(rarity, abs=1e-5)
    assert found.text.tolist() == sorted(found.text.tolist())
    assert not (found.share > 1).any()


def around(name: str, text: str, common: Counter[str]) -> list[str]:
    """The words around a mention, by looking at every run of words of the name."""
    named, said = words(name), words(text)
    turn = min((place for place, word in enumerate(named) if word in said),
               key=lambda place: (common[named[place]], place))
    runs = [(start, start + length)
            for length in range(len(said), 0, -1) for start in range(len(said) - length + 1)
            for first in range(turn + 1) if first + length > turn
            and said[start : start + length] == named[first : first + length]]
    start, end = runs[0]
    before, after = said[:start][-finding.BEFORE :], said[end:][: finding.AFTER]
    return [*(f"{word} before" for word in before), *(f"after {word}" for word in after),
            *(f"{word} just before" for word in before[-1:]),
            *(f"just after {word}" for word in after[:1])]


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=8), st.integers(1, 3))
def test_the_words_around_mentions_are_those_of_a_brute_force_search(
    pairs: list[tuple[str, str]], often: int
) -> None:
    names, texts = ([f"{pair[place]} x" for pair in pairs] for place in (0, 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finding, "OFTEN", often)
        patch.setattr(finding, "BEFORE", 3)
        found = find_mentions(names, texts, show_progress=False)
        common = Counter(word for text in texts for word in set(words(text)))
        bare = [re.sub(r"\s*\([^()]*\)\s*$", "", name) for name in names]
        expected = [around(bare[name], texts[text], common)
                    for text, name in zip(found.text.tolist(), found.name.tolist(), strict=True)]
    count = Counter(term for terms in expected for term in terms)
    numbers: dict[str, int] = {}
    for terms, row in zip(expected, found.around.tolist(), strict=True):
        assert not any(row[len(terms):])
        for term, number in zip(terms, row, strict=False):
            assert (number > 0) == (count[term] >= often)
            assert not number or numbers.setdefault(term, number) == number
    assert len(set(numbers.values())) == len(numbers)


def test_a_name_without_a_word_is_never_named() -> None:
    found = find_mentions(["!!!", "Bo", "Al"], ["Bo", "!!!", ""], show_progress=False)
    assert (found.text.tolist(), found.name.tolist(), found.share.tolist()) == ([0], [1], [1.0])
    assert not len(find_mentions(["Al", "Bo"], ["", ""], show_progress=False).text)
    with pytest.raises(InputError, match="hold no word"):
        find_mentions(["!!!"], ["?"], show_progress=False)


def test_mentions_are_kept_with_their_ids(tmp_path: Path) -> None:
    path = tmp_path / "features" / "mentions.safetensors"
    with pytest.raises(InputError, match=r"is missing; run 'kgc features \S+ --modality mentions'"):
        read_mentions(path, ["a"])
    path.parent.mkdir()
    mentions = Mentions(torch.tensor([0, 1, 1]), torch.tensor([2, 0, 2]),
                        torch.tensor([0.5, 0.75, 1.0]), torch.tensor([3.0, 4.0, 5.0]),
                        torch.tensor([[1, 0], [0, 2], [3, 1]], dtype=torch.int32))
    write_mentions(path, ["a", "b", "c"], mentions, {})
    found = read_mentions(path, ["c", "b", "a", "d"])
    assert found.text.tolist() == [1, 1, 2]
    assert found.name.tolist() == [2, 0, 0]
    assert found.share.tolist() == [0.75, 1.0, 0.5]
    assert found.rarity.tolist() == [4.0, 5.0, 3.0]
    assert found.around.tolist() == [[0, 2], [3, 1], [1, 0]]
    with pytest.raises(InputError, match="'b' is no entity of this graph"):
        read_mentions(path, ["a", "c"])
    write_mentions(path, ["a", "b", "a"], mentions, {})
    with pytest.raises(InputError, match="the entity 'a' has two rows"):
        read_mentions(path, ["a", "b"])
    save_file({"ids": pack(["a"])}, path)
    with pytest.raises(InputError, match="holds no mentions"):
        read_mentions(path, ["a"])


def told(tiny: Path, **said: str) -> Path:
    """The tiny graph with descriptions."""
    rows = [row.split("\t") for row in TINY["entities.tsv"].splitlines()[1:]]
    (tiny / "entities.tsv").write_text("id\tname\tdescription\n" + "".join(
        f"{entity}\t{name}\t{said.get(entity, '')}\n" for entity, name in rows))
    return tiny


def test_the_command_finds_them_and_leaves_what_is_up_to_date(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told(tiny, e0="a thing red and round", e4="no fruit")
    command = ["features", str(tiny), "--modality", "mentions"]
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{
        "modality": "mentions", "path": str(tiny / "features" / "mentions.safetensors"),
        "entities": 9, "texts": 2, "mentions": 2}]
    ids = read_graph(tiny).entity_ids
    path = tiny / "features" / "mentions.safetensors"
    found = read_mentions(path, ids)
    assert [(ids[text], ids[name]) for text, name in zip(found.text, found.name, strict=True)] == [
        ("e0", "e7"), ("e4", "e3")]
    assert found.share[0] == 1 > found.share[1]
    before = path.stat().st_mtime_ns
    assert main(command) == 0
    assert "the texts of 2 of 9 entities name others, 2 in all" in capsys.readouterr().out
    assert path.stat().st_mtime_ns == before
    told(tiny, e0="blue")
    assert main(command) == 0
    assert "the texts of 0 of 9" in capsys.readouterr().out


def random_mentions(graph: KnowledgeGraph, seed: int) -> tuple[Mentions, torch.Tensor]:
    """Some pairs, and what the scorer reads of them as a table [N, N, 2] in float64."""
    torch.manual_seed(seed)
    count = graph.num_entities
    share, rarity = torch.rand(2, count, count) * (torch.rand(count, count) < 0.3)
    text, name = share.nonzero().unbind(1)
    around = torch.randint(6, (len(text), 4), dtype=torch.int32)
    return (Mentions(text, name, share[text, name], rarity[text, name], around),
            torch.stack([share, share * rarity], 2).double())


@given(st.integers(0, 99), st.integers(0, 2))
def test_the_scorer_is_its_equation(seed: int, width: int) -> None:
    graph = random_graph(seed)
    mentions, table = random_mentions(graph, seed)
    config = MentionConfig(width, shrinkage=0.3)
    scorer = MentionScorer(config, Vocabulary.of(graph), {"mentions": mentions}).double()
    for part in scorer.parameters():
        torch.nn.init.normal_(part)
    count, relations = graph.num_entities, 2 * graph.num_relations
    heads = torch.arange(count).repeat_interleave(relations)
    asked = torch.arange(relations).repeat(count)
    weights = scorer.common + scorer.own[asked]
    expected = (torch.einsum("qf,qnf->qn", weights[:, 0], table[heads])
                + torch.einsum("qf,qnf->qn", weights[:, 1], table.transpose(0, 1)[heads]))
    if width:
        said = torch.zeros(count, count, width, dtype=torch.float64)
        for text, name, share, near in zip(mentions.text, mentions.name, mentions.share,
                                           mentions.around.tolist(), strict=True):
            said[text, name] = share * sum(
                (scorer.words[word] for word in near if word), torch.zeros(width))
        expected = expected + (
            torch.einsum("qf,qnf->qn", scorer.asks[asked, 0], said[heads])
            + torch.einsum("qf,qnf->qn", scorer.asks[asked, 1], said.transpose(0, 1)[heads]))
    torch.testing.assert_close(scorer.score(heads, asked), expected)
    feed = scorer.feed(graph, 0)
    head, relation, tail = feed(torch.arange(9).numpy(), 1)["queries"].unbind(1)
    squares = scorer.own.square().sum()
    if width:
        squares = squares + scorer.words.square().sum() + scorer.asks.square().sum()
    torch.testing.assert_close(
        scorer.loss(feed(torch.arange(9).numpy(), 1)),
        functional.cross_entropy(expected.reshape(count, relations, count)[head, relation], tail,
                                 reduction="sum") + 0.3 * 9 / len(feed) * squares)


def test_a_saved_scorer_needs_no_data_set(tmp_path: Path) -> None:
    graph = random_graph(3)
    mentions, _ = random_mentions(graph, 3)
    scorer = MentionScorer(MentionConfig(), Vocabulary.of(graph), {"mentions": mentions}).eval()
    torch.nn.init.normal_(scorer.own)
    scorer.save_pretrained(tmp_path)
    loaded = EntityScorer.from_pretrained(tmp_path, graph)
    heads, relations = torch.arange(12) % 12, torch.arange(12) % 6
    assert torch.equal(loaded.score(heads, relations), scorer.score(heads, relations))
    with pytest.raises(InputError, match="was trained on other entities"):
        EntityScorer.from_pretrained(tmp_path, replace(graph, entity_ids=tuple("abcdefghijkl")))
    with pytest.raises(InputError, match=r"model\.words is -1"):
        MentionConfig(words=-1)
    with pytest.raises(InputError, match=r"model\.shrinkage is -1"):
        MentionConfig(shrinkage=-1)


def test_what_texts_name_is_learnt_and_fused(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    colours = {"e0": "red", "e1": "green", "e2": "red", "e5": "green", "e4": "red"}
    told(tiny, **{entity: f"painted like the thing {colour}, never like the thing "
                          f"{'red' if colour == 'green' else 'green'}"
                  for entity, colour in colours.items()})
    shutil.copy(tiny / "test.tsv", tiny / "valid.tsv")
    (tiny / "test.tsv").write_text(TINY["valid.tsv"] + "e4\tcolour\te7\n")
    data = ["--dataset", str(tiny), "--training.steps", "60", "--training.batch_size", "20",
            "--training.validate_every", "30", "--training.checkpoint_every", "30",
            "--optimizer.name", "adamw", "--optimizer.learning_rate", "0.2",
            "--optimizer.warmup_steps", "0"]
    run = tmp_path / "mentions"
    command = [*data, "--scorer", "mentions", "--out", str(run)]
    assert train_scorer.main(command) == 2
    assert "run 'kgc features" in capsys.readouterr().err
    assert main(["features", str(tiny), "--modality", "mentions", "--modality", "text",
                 "--dim", "4"]) == 0
    assert train_scorer.main(command) == 0
    capsys.readouterr()
    assert main(["predict", str(run), "--head", "thing carrot", "--relation", "colour", "--json"]
                ) == 0
    assert json.loads(capsys.readouterr().out)["answers"][0]["name"] == "thing red"
    assert main(["predict", str(run), "--tail", "thing red", "--relation", "colour", "-k", "3",
                 "--json"]) == 0
    best = {answer["name"] for answer in json.loads(capsys.readouterr().out)["answers"]}
    assert best == {"thing apple", "thing plum", "thing carrot"}
    assert train_scorer.main([*data, "--scorer", "distmult", "--out", str(tmp_path / "distmult"),
                              "--model.dim", "4"]) == 0
    capsys.readouterr()
    assert main(["fuse", str(tmp_path / "distmult"), str(run), "--out", str(tmp_path / "fused"),
                 "--shrinkage", "1", "--json"]) == 0
    about = json.loads(capsys.readouterr().out)["protocol"]
    assert about["system"] == "DistMult + mentions"
    assert about["weights"]["mentions"]["colour"]["tail"] > 0
