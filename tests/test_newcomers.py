"""Entities that the graph lacks: as heads with facts and an image, and as new answers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from caption_cache.again import caption_as
from caption_cache.build import Task, build
from caption_cache.captioners import Identity, Request
from caption_cache.captioners.palette import PaletteCaptioner
from caption_cache.captions import read_captions, read_profiles
from caption_cache.errors import InputError
from caption_cache.source import Source
from kgc_seq2seq.cli import main
from kgc_seq2seq.completer import Completer, Query
from kgc_seq2seq.config import RunConfig
from kgc_seq2seq.newcomers import Newcomer
from kgc_seq2seq.runs import read_generator
from kgc_seq2seq.text.input_config import InputConfig
from kgc_seq2seq.text.tokenizer import TokenizerConfig
from kgc_seq2seq.text.verbalizer import Verbalizer
from kgc_seq2seq.train import run_training
from kgc_seq2seq.training.loop import TrainingConfig
from kgc_seq2seq.training.model import ModelConfig


@pytest.fixture(scope="module")
def completer(trained: Path) -> Completer:
    return Completer.from_pretrained(trained)


def flag(dataset: Path, name: str) -> str:
    """The image of a nation."""
    rows = (line.split("\t")[:2] for line in (dataset / "entities.tsv").read_text().splitlines())
    entity = next(key for key, called in rows if called == name)
    return str(next((dataset / "images" / entity).iterdir()))


def read_by(completer: Completer, query: Query) -> str:
    """What the model reads for a query about a new entity."""
    told = completer.telling(query)
    entity, relation = told.resolve(replace(query, entity=query.name))
    row = told.generator.verbalizer.inputs(np.array([[entity, relation, -1]], np.int32), 0)[0]
    return told.generator.verbalizer.tokenizer.decode(row)


class Teller:
    """Says the question's last word, and how red an image is."""

    identity = Identity("teller", "m")
    prompted = True
    batch_size = 4

    def caption(self, requests: Sequence[Request]) -> list[str]:
        return [f"{(request.prompt or '').split()[-1]} {request.images[0].getpixel((0, 0))[0]}"
                for request in requests]


def test_profiles_are_read_and_made_for_a_new_head(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third setting of MMKG-T5: what is said of all images in two ways, as one text."""
    for red, entity in enumerate(("e0", "e1", "e2")):
        (tiny / "images" / entity).mkdir(parents=True)
        Image.new("RGB", (4, 4), (red, 0, 0)).save(tiny / "images" / entity / "a.png")
    for scope in ("commonsense", "visual"):
        build(tiny, Teller(), Task(scope=scope), show_progress=False)
    told = read_profiles(tiny).texts
    assert len(set(told.values())) == 3
    run_training(RunConfig(
        str(tiny), str(tmp_path / "run"), model=ModelConfig(d_model=16, d_ff=16, num_heads=2),
        tokenizer=TokenizerConfig(pieces=60, words=20), training=TrainingConfig(steps=1),
        input=InputConfig(setting="mmkg-t5", caption_scopes=("profile",))))
    completer = Completer.from_pretrained(tmp_path / "run")
    assert told["e1"] in read_by(completer, Query("thing pear", "kind"))

    monkeypatch.setattr("caption_cache.again.options_of", lambda name: None)
    monkeypatch.setattr("caption_cache.again.load_captioner", lambda name, options: Teller())
    image = str(tiny / "images" / "e1" / "a.png")
    new = read_by(completer, Query(Newcomer("thing red apple", image=image), "kind"))
    assert told["e1"].replace("thing pear", "thing red apple") in new


def test_new_candidates_join_the_others(completer: Completer) -> None:
    plain = completer.complete(Query("France", "currency"), k=10**6)
    query = Query("France", "currency", candidates=("Euro of France", "dollar franc", "JAPAN"))
    found = completer.complete(query, k=10**6)
    assert len(found) == len(plain) + 2  # Japan was there
    assert sum(answer.probability for answer in found) == pytest.approx(1)
    scores = {answer.name: answer.log_probability for answer in found}
    assert {"Euro of France", "dollar franc"} < scores.keys()
    for answer in plain:
        assert scores[answer.name] == pytest.approx(answer.log_probability, abs=1e-4)
    assert completer.complete(Query("France", "currency"), k=10**6) == plain


def test_a_new_head_is_read_with_its_facts_and_its_caption(
    completer: Completer, nations: Path
) -> None:
    ruritania = Newcomer("Ruritania", (("subregion", "Western Europe"), ("borders", "France")),
                         image=flag(nations, "Italy"))
    query = Query(ruritania, "currency")
    text = read_by(completer, query)
    captions = read_captions(nations).texts
    italy = completer.graph.entity_names.index("Italy")
    assert captions[completer.graph.entity_ids[italy]] in text
    assert text.startswith("Ruritania")
    assert "subregion Western Europe" in text
    assert "borders France" in text
    other = read_by(completer, Query(Newcomer("Ruritania", caption="blue"), "currency"))
    assert "blue" in other
    assert "France" not in other

    # Beside others in one call it changes nothing for them.
    before = completer.complete(Query("France", "currency"), k=3)
    answers = completer.complete_many([Query("France", "currency"), query], k=3)
    assert answers[0] == before
    assert answers[1] == completer.complete(query, k=3)
    back = completer.complete(replace(query, direction="head"), k=10**6)
    assert "Ruritania" in {answer.name for answer in back}
    known = completer.complete(Query(ruritania, "subregion"), k=10**6)
    assert [answer.name for answer in known if answer.known] == ["Western Europe"]
    known = completer.complete(Query(ruritania, "borders"), k=10**6)  # reads the same both ways
    assert [answer.name for answer in known if answer.known] == ["France"]


def test_texts_that_are_tokenized_are_kept_and_read_the_same(
    completer: Completer, trained: Path
) -> None:
    ruritania = Newcomer("Ruritania", (("subregion", "Western Europe"), ("borders", "France")),
                         caption="colours red.")
    told = completer.telling(Query(ruritania, "currency", candidates=("Euro of France",)))
    kept, config = told.generator.verbalizer, read_generator(trained)
    anew = Verbalizer(told.graph, {**told.run.captions, "Ruritania": "colours red."},
                      kept.tokenizer, config.input, config.seed)
    for part, same in zip(kept.names(), anew.names(), strict=True):
        assert np.array_equal(part, same)
    graph = told.graph
    new = [(graph.num_entities - 1, relation, -1) for relation in range(2 * graph.num_relations)]
    queries = np.concatenate([graph.fold(graph.queries(graph.test)),
                              np.array(new, np.int32)]).astype(np.int32)
    assert np.array_equal(kept.inputs(queries, 0), anew.inputs(queries, 0))


def test_the_command_line_takes_new_entities(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "queries.jsonl"
    file.write_text(json.dumps({
        "head": {"name": "Ruritania", "facts": [["subregion", "Western Europe"]]},
        "relation": "currency", "candidates": ["Ruritanian franc"]}) + "\n")
    assert main(["predict", str(trained), "--queries", str(file), "-k", "900", "--json"]) == 0
    [entry] = json.loads(capsys.readouterr().out)
    assert entry["query"]["entity"]["name"] == "Ruritania"
    assert {"Ruritania", "Ruritanian franc"} < {answer["name"] for answer in entry["answers"]}
    assert main(["predict", str(trained), "--queries", str(file), "-k", "2"]) == 0
    assert capsys.readouterr().out.startswith("(Ruritania, currency, ?)")


@pytest.mark.parametrize("head, why", [
    ({"facts": []}, "has no name"),
    ({"name": "France"}, "line 1: The new entity 'France' is called as one that is there"),
    ({"name": "france"}, "line 1: The new entity 'france' is called as one that is there"),
    ({"name": "Ruritania", "fact": []}, "no 'fact', only name, facts"),
    ({"name": "Ruritania", "caption": 3}, "the caption of a new entity must be a text"),
    ({"name": "Ruritania", "facts": [["borders"]]}, "a list of [relation, neighbour]"),
    ({"name": "Ruritania", "facts": [["borders", "Frans"]]},
     "line 1: No entity is called 'Frans'; the nearest names are France"),
    ({"name": "Ruritania", "facts": [["bordering", "France"]]},
     "line 1: No relation is called 'bordering'"),
    ({"name": "Ruritania", "caption": "red", "image": "a.png"}, "give one of them"),
    ({"name": "Ruritania", "image": "nowhere.png"}, "nowhere.png cannot be shown"),
    ({"name": "山"}, "the tokenizer lacks"),
])
def test_a_new_entity_that_does_not_fit_is_refused(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], head: object, why: str
) -> None:
    file = tmp_path / "queries.jsonl"
    file.write_text(json.dumps({"head": head, "relation": "currency"}))
    assert main(["predict", str(trained), "--queries", str(file)]) == 2
    sentence = capsys.readouterr().err.strip().split("\n")[-1]
    assert why in sentence


def test_candidates_that_are_no_names_are_refused(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "queries.jsonl"
    for candidates, why in (([3], "a list of names"), ("Euro", "a list of candidates")):
        file.write_text(json.dumps({"head": "France", "relation": "currency",
                                    "candidates": candidates}))
        assert main(["predict", str(trained), "--queries", str(file)]) == 2
        assert why in capsys.readouterr().err


def test_an_image_is_captioned_only_as_the_others_were(
    nations: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tmp_path / "flag.png"
    shutil.copy(flag(nations, "Italy"), image)
    [source] = read_captions(nations).sources
    assert "green" in caption_as(source, image, "Ruritania")
    german = "Eine alte Fahne mit drei breiten Streifen, die über einem Platz im Wind weht."
    with monkeypatch.context() as patched:
        patched.setattr(PaletteCaptioner, "caption", lambda self, requests: [german])
        assert caption_as(source, image, "Ruritania") == german
    refusals: list[Callable[[], str]] = [
        lambda: caption_as(Source(replace(source.identity, revision="0"), None, None), image, "R"),
        lambda: caption_as(replace(source, prompt_id="mine", prompt_hash="0"), image, "R"),
        lambda: caption_as(Source(Identity("gone"), None, None), image, "R"),
    ]
    for refusal, why in zip(refusals, ("another version", "not among the standard", "'gone'"),
                            strict=True):
        with pytest.raises(InputError, match=why):
            refusal()
