"""Asking about pairs and relations: whom, with which images, and never about what is tested."""

from __future__ import annotations

import itertools
import json
import math
import shutil
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_caption_build import Shades, make_dataset, paint, shown

from caption_cache import cli
from caption_cache.build import Report, Task, build, preview
from caption_cache.captioners import Identity, Refusal, Request, YesNo
from caption_cache.captions import (
    current_rows,
    read_captions,
    read_link_captions,
    read_profiles,
    still_shown,
)
from caption_cache.errors import InputError
from caption_cache.images import Flaw, ImageError, has_images, read_bytes
from caption_cache.links import INVERSE, Links, read_links
from caption_cache.prompts import SCOPES, STANDARD, read_prompts
from caption_cache.stats import stats
from caption_cache.store import Store
from caption_cache.verify import verify


class Viewer(Shades):
    """Says which images it is shown; an image is relevant to the entity of its own number."""

    identity = Identity("viewer", "m", settings={"max_new_tokens": 9})
    judge_identity = Identity("viewer", "m")
    prompted = True
    related: frozenset[tuple[int, int]] = frozenset()
    """Beside that, (number of the entity asked about, red of the image)."""

    def __init__(self) -> None:
        super().__init__()
        self.judged: list[Request] = []

    def caption(self, requests: Sequence[Request]) -> list[str]:
        super().caption(requests)
        return ["shows " + " ".join(str(image.getpixel((0, 0))[0])  # type: ignore[index]
                                    for image in request.images) for request in requests]

    def judge(self, requests: Sequence[Request]) -> list[YesNo | Refusal]:
        self.judged += requests
        answers: list[YesNo | Refusal] = []
        for request in requests:
            about = int((request.prompt or "").split("Entity ")[1].split()[0])
            red = shown(request)[0]
            yes = about == red or (about, red) in self.related
            answers.append(YesNo(0.3, 0.2) if yes else YesNo(0.2, 0.2))
        return answers


FACTS = [("e0", "near", "e1"), ("e1", "over", "e0"), ("e2", "near", "e1"), ("e3", "near", "e3"),
         ("e4", "over", "e9")]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Entities e0 … e5 with an image each, e9 without; linked as `FACTS` tells."""
    folder = make_dataset(tmp_path / "data", 6)
    with (folder / "entities.tsv").open("a") as file:
        file.write("e9\tEntity 9\n")
    (folder / "relations.tsv").write_text("id\tname\tinverse_name\nnear\tnear\tnear\n"
                                          "over\tlies over\tlies under\n")
    for split, facts in (("train", FACTS), ("valid", [("e4", "near", "e5")]),
                         ("test", [("e0", "over", "e5")])):
        (folder / f"{split}.tsv").write_text("head\trelation\ttail\n" + "".join(
            f"{h}\t{r}\t{t}\n" for h, r, t in facts))
    return folder


def run(dataset: Path, captioner: Shades, limit: int | None = None, **task: Any) -> Report:
    return build(dataset, captioner, Task(**task), limit=limit, show_progress=False)


def said(dataset: Path, scope: str) -> list[tuple[Any, ...]]:
    return sorted((row["entity"], row["neighbour"] or row["relation"], row["text"])
                  for row in Store(dataset).read().to_pylist() if row["scope"] == scope)


def test_each_image_of_a_pair_is_captioned_once(dataset: Path) -> None:
    captioner = Viewer()
    report = run(dataset, captioner, scope="pair", keep_all=True)
    assert said(dataset, "pair") == [
        ("e0", "e1", "shows 0"), ("e0", "e1", "shows 1"), ("e1", "e2", "shows 1"),
        ("e1", "e2", "shows 2"), ("e4", "e9", "shows 4")]
    assert (report.items, report.captioned, report.judged) == (5, 5, 0)
    assert any("Entity 0 and Entity 1 are related" in (request.prompt or "")
               for request in captioner.asked)
    assert run(dataset, captioner, scope="pair", keep_all=True).captioned == 0
    assert verify(dataset) == (5, [])


def test_images_relevant_to_both_are_kept(dataset: Path) -> None:
    captioner = Viewer()
    captioner.related = frozenset([(0, 1), (2, 1), (9, 4)])
    report = run(dataset, captioner, scope="pair")
    # Asked: e0's and e1's about both, e1's and e2's about both, e4's about both; e1's own once.
    assert report.judged == len(captioner.judged) == 9
    assert said(dataset, "pair") == [
        ("e0", "e1", "shows 1"), ("e1", "e2", "shows 1"), ("e4", "e9", "shows 4")]
    assert ("e0", None, "yes, P(yes) 0.3, P(no) 0.2") in said(dataset, "relevance")
    assert ("e1", None, "no, P(yes) 0.2, P(no) 0.2") in said(dataset, "relevance")
    assert (report.items, report.captioned, report.left) == (3, 3, 0)
    again = run(dataset, captioner, scope="pair")
    assert (again.judged, again.captioned, again.done_before) == (0, 0, 3)
    summaries = run(dataset, captioner, scope="summary")
    assert summaries.judged == 0, "the answers serve both scopes"
    assert verify(dataset)[1] == []


def test_summary_is_one_text_over_the_kept_images(dataset: Path) -> None:
    paint(dataset / "images/e1/b.png", 100)
    captioner = Viewer()
    captioner.related = frozenset([(0, 1), (0, 100), (1, 100)])
    run(dataset, captioner, scope="summary")
    assert said(dataset, "summary") == [("e0", "e1", "shows 1 100")]
    run(dataset, captioner, scope="summary", keep_all=True, most_images=2)
    assert ("e0", "e1", "shows 0 1") in said(dataset, "summary")


def test_a_profile_says_two_things_of_all_images(dataset: Path) -> None:
    paint(dataset / "images/e1/b.png", 100)
    (dataset / "images/e2/empty.png").write_bytes(b"")
    captioner = Viewer()
    for scope in ("commonsense", "visual"):
        report = run(dataset, captioner, scope=scope, most_images=2)
        assert (report.items, report.captioned, report.judged) == (6, 6, 0)
        assert ("e1", None, "shows 1 100") in said(dataset, scope)
        assert ("e2", None, "shows 2") in said(dataset, scope)
    questions = [request.prompt or "" for request in captioner.asked]
    assert sum("common sense" in question for question in questions) == 6
    assert sum("only what can be seen" in question for question in questions) == 6
    assert all("Entity" in question for question in questions)
    profiles = read_profiles(dataset)
    assert profiles.texts["e1"] == "Entity 1 is shows 1 100 And shows 1 100"
    assert [source.prompt_id for source in profiles.sources] == ["commonsense-1", "visual-1"]
    assert verify(dataset)[1] == []

    # With another image, the newest text is the one that counts.
    (dataset / "images/e1/b.png").unlink()
    run(dataset, captioner, scope="visual", most_images=2)
    assert read_captions(dataset, scope="visual").texts["e1"] == "shows 1"


def test_a_profile_that_names_its_entity_is_left_as_it_is(dataset: Path) -> None:
    class Namer(Viewer):
        def caption(self, requests: Sequence[Request]) -> list[str]:
            return [f"entity {text.split()[-1]} stands" for text in super().caption(requests)]

    for scope in ("commonsense", "visual"):
        run(dataset, Namer(), scope=scope)
    assert read_profiles(dataset).texts["e3"] == "entity 3 stands And entity 3 stands"


def test_nothing_is_said_of_entities_that_are_gone(dataset: Path) -> None:
    for scope in ("commonsense", "visual", "pair"):
        run(dataset, Viewer(), scope=scope, keep_all=True)
    shutil.rmtree(dataset / "images/e2")
    table = dataset / "entities.tsv"
    table.write_text(table.read_text().replace("e2\tEntity 2\n", ""))
    for _ in range(2):  # with the images, and without
        assert read_profiles(dataset).texts.keys() == {"e0", "e1", "e3", "e4", "e5"}
        assert read_link_captions(dataset, "pair").texts.keys() == {
            ("e0", "e1"), ("e1", "e0"), ("e4", "e9"), ("e9", "e4")}
        if has_images(dataset):
            outdated, store = stats(dataset).outdated, Store(dataset)
            before, after = store.compact(partial(still_shown, dataset))
            assert before - after == outdated > 0
            assert not stats(dataset).outdated
            shutil.rmtree(dataset / "images")


@pytest.mark.parametrize("entity", ["e1", "e/1"])
def test_texts_of_pairs_keep_their_order_without_the_images(dataset: Path, entity: str) -> None:
    """Images in folders as imports call them; the entities in another order than those."""
    for name in ("entities", "train", "valid", "test"):
        head, *lines = (dataset / f"{name}.tsv").read_text().replace("e1", entity).splitlines()
        (dataset / f"{name}.tsv").write_text("\n".join([head, *reversed(lines), ""]))
    (dataset / "images/e1").rename(dataset / "images" / quote(entity, safe=""))
    (dataset / "images.tsv").write_text("entity\tpath\n" + "".join(
        f"{of}\timages/{quote(of, safe='')}/a.png\n" for of in ("e0", entity, "e2", "e4")))
    run(dataset, Viewer(), scope="pair", keep_all=True)
    texts = read_link_captions(dataset, "pair").texts
    assert (texts["e0", entity], texts["e2", entity]) == ("shows 1 | shows 0", "shows 2 | shows 1")
    (dataset / "images.tsv").unlink()
    shutil.rmtree(dataset / "images")
    assert read_link_captions(dataset, "pair").texts == texts


def test_limit_counts_questions_and_the_next_start_goes_on(dataset: Path) -> None:
    captioner = Viewer()
    captioner.related = frozenset(itertools.product(range(10), range(10)))
    left = []
    for _ in range(20):
        before = len(captioner.judged) + len(captioner.asked)
        report = run(dataset, captioner, scope="pair", limit=3)
        assert len(captioner.judged) + len(captioner.asked) - before <= 3
        left.append(report.left)
        if not report.left:
            break
    assert left[-1] == 0
    assert len(captioner.judged) == 9
    assert len(said(dataset, "pair")) == 5
    assert len(captioner.asked) == 5


def test_preview_tells_what_must_be_judged_first(dataset: Path) -> None:
    captioner = Viewer()
    plan = preview(dataset, captioner, Task(scope="pair"))
    assert (plan.items, plan.to_judge) == (0, 9)
    run(dataset, captioner, scope="pair", limit=9)
    plan = preview(dataset, captioner, Task(scope="pair", keep_all=True), sample=4)
    assert (plan.items, plan.to_caption, plan.to_judge) == (5, 5, 0)
    assert plan.seconds_per_text is not None
    assert plan.estimated_seconds is not None
    assert said(dataset, "pair") == []


def test_preview_knows_the_verdicts_of_before(dataset: Path) -> None:
    class Strict(Viewer):
        def judge(self, requests: Sequence[Request]) -> list[YesNo | Refusal]:
            return [YesNo(0, 1) if "Omega" in (request.prompt or "") else YesNo(1, 0)
                    for request in requests]

    run(dataset, Strict(), scope="pair")
    rename(dataset, "Entity 1", "Omega")
    run(dataset, Strict(), scope="pair")
    rename(dataset, "Omega", "Entity 1")
    plan = preview(dataset, Strict(), Task(scope="pair"))
    report = run(dataset, Strict(), scope="pair")
    assert (plan.items, plan.done, plan.to_judge) == (report.items, report.done_before, 0)
    assert report.items == 5


def test_relation_is_named_in_both_directions_and_the_answer_never(dataset: Path) -> None:
    captioner = Viewer()
    run(dataset, captioner, scope="relation")
    assert said(dataset, "relation") == sorted([
        ("e0", "near", "shows 0"), ("e1", "^near", "shows 1"), ("e1", "over", "shows 1"),
        ("e0", "^over", "shows 0"), ("e2", "near", "shows 2"), ("e3", "near", "shows 3"),
        ("e3", "^near", "shows 3"), ("e4", "over", "shows 4")])
    by_subject = {(row["entity"], row["relation"]): row["prompt"]
                  for row in Store(dataset).read().to_pylist()}
    assert "Entity 4" in by_subject["e4", "over"]
    assert "its lies over" in by_subject["e4", "over"]
    assert "its lies under" in by_subject["e0", "^over"]
    for head, relation, tail in FACTS:
        if head != tail:
            assert tail.replace("e", "Entity ") not in by_subject[head, relation]


@pytest.mark.parametrize("scope", ["entity", "pair", "summary", "relation"])
def test_hidden_names_are_not_in_the_question(dataset: Path, scope: str) -> None:
    captioner = Viewer()
    run(dataset, captioner, scope=scope, keep_all=True, names_hidden=True)
    assert captioner.asked
    assert not any("Entity" in (request.prompt or "") for request in captioner.asked)
    [source] = {row["prompt_id"] for row in Store(dataset).read().to_pylist()}
    assert source == f"{scope}-hidden-1"
    named = Viewer()
    run(dataset, named, scope=scope, keep_all=True)
    assert all("Entity" in (request.prompt or "") for request in named.asked)


def test_pairs_come_from_train_only(dataset: Path) -> None:
    run(dataset, Viewer(), scope="pair", keep_all=True)
    pairs = {subject[:2] for subject in said(dataset, "pair")}
    assert not pairs & {("e4", "e5"), ("e0", "e5")}, "those of valid and test"
    for split in ("valid", "test", "all"):
        with pytest.raises(InputError, match=f"from the train split, not from '{split}': that a "
                                             "pair has a caption would tell the model"):
            run(dataset, Viewer(), scope="pair", split=split)


names = st.sampled_from("abcd")
facts = st.lists(st.tuples(names, st.sampled_from("rs"), names), max_size=9)


@given(facts, st.randoms())
def test_pairs_and_questions_are_those_of_the_facts(
    triples: list[tuple[str, str, str]], chance: Any
) -> None:
    links = Links(triples, {})
    pairs = links.pairs()
    assert {frozenset(pair) for pair in pairs} == {
        frozenset((head, tail)) for head, _, tail in triples if head != tail}
    assert len(pairs) == len({frozenset(pair) for pair in pairs})
    assert set(links.questions()) == {(head, relation) for head, relation, _ in triples} | {
        (tail, INVERSE + relation) for _, relation, tail in triples}
    shuffled = [(tail, relation, head) if chance.random() < 0.5 else (head, relation, tail)
                for head, relation, tail in chance.sample(triples, len(triples))]
    assert Links(shuffled, {}).pairs() == pairs


def test_a_new_fact_repeats_no_work(dataset: Path) -> None:
    run(dataset, Viewer(), scope="pair", keep_all=True)
    with (dataset / "train.tsv").open("a") as file:
        file.write("e5\tnear\te0\ne1\tnear\te0\n")
    captioner = Viewer()
    run(dataset, captioner, scope="pair", keep_all=True)
    assert sorted(map(shown, captioner.asked)) == [(0, 0, 0), (5, 0, 0)]


def test_captioner_without_questions_or_judgement_is_refused(dataset: Path) -> None:
    with pytest.raises(InputError, match=r"'shades' takes no questions.*--scope entity"):
        run(dataset, Shades(), scope="pair")

    class Silent(Shades):
        prompted = True

    with pytest.raises(InputError, match=r"'shades' cannot answer whether .*--keep-all"):
        run(dataset, Silent(), scope="summary")
    assert not (dataset / "captions").exists()


@pytest.mark.parametrize(("file", "text", "message"), [
    ("train.tsv", "head\trelation\ttail\ne0\tnear\tx\n", "train.tsv, line 2: the tail 'x' is not"),
    ("train.tsv", "head\trelation\ttail\ne0\tx\te1\n", "line 2: the relation 'x' is not in relat"),
    ("relations.tsv", "id\tname\n^near\tx\n", r"relations.tsv, line 2: the id '\^near' begins"),
])
def test_bad_facts_are_refused(dataset: Path, file: str, text: str, message: str) -> None:
    (dataset / file).write_text(text)
    with pytest.raises(InputError, match=message):
        run(dataset, Viewer(), scope="pair")
    assert not (dataset / "captions").exists()


def test_inverse_names_are_made_where_none_is_told(dataset: Path) -> None:
    (dataset / "relations.tsv").write_text("id\tname\nnear\tnear\nover\tover\n")
    links = read_links(dataset, {f"e{i}" for i in range(10)})
    assert links.relation_names["^over"] == "inverse of over"


def test_bad_tasks_are_refused() -> None:
    for wrong, message in ({"scope": "moon"}, "no scope 'moon'"), ({"language": "xx"}, "'xx'"), (
            {"most_images": 0}, "--most-images is 0"), ({"retry": ("ok",)}, "status 'ok'"):
        with pytest.raises(InputError, match=message):
            Task(**wrong)


def test_texts_of_pairs_are_read_in_both_orders(dataset: Path) -> None:
    with pytest.raises(InputError, match=r"no captions of the scope 'pair'.*--scope pair' first"):
        read_link_captions(dataset, "pair")
    run(dataset, Viewer(), scope="pair", keep_all=True)
    run(dataset, Viewer(), scope="relation")
    pairs = read_link_captions(dataset, "pair")
    assert pairs.sources[0].prompt_id == "pair-1"
    assert pairs.texts == {
        ("e0", "e1"): "shows 0 | shows 1", ("e1", "e0"): "shows 0 | shows 1",
        ("e1", "e2"): "shows 1 | shows 2", ("e2", "e1"): "shows 1 | shows 2",
        ("e4", "e9"): "shows 4", ("e9", "e4"): "shows 4"}
    relations = read_link_captions(dataset, "relation").texts
    assert relations["e0", "^over"] == "shows 0"
    assert len(relations) == 8


def test_show_tells_of_pairs_at_both_their_ends(
    dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(dataset, Viewer(), scope="pair", keep_all=True)
    run(dataset, Viewer(), scope="relation")
    for entity in ("e1", "e2"):
        assert cli.main(["show", str(dataset), entity]) == 0
        out = capsys.readouterr().out
        assert "images/e2/a.png, e1 and e2, viewer m pair-1 [" in out
        assert ("e1, ^near, viewer m relation-1 [" in out) == (entity == "e1")


def test_newest_summary_counts(dataset: Path) -> None:
    run(dataset, Viewer(), scope="summary", keep_all=True)
    paint(dataset / "images/e1/b.png", 100)
    run(dataset, Viewer(), scope="summary", keep_all=True)
    assert read_link_captions(dataset, "summary").texts["e1", "e0"] == "shows 0 1 100"
    (dataset / "images/e1/b.png").unlink()
    assert ("e1", "e0") not in read_link_captions(dataset, "summary").texts


def test_renamed_entity_is_asked_about_anew_and_read_once(dataset: Path) -> None:
    run(dataset, Viewer())
    table = dataset / "entities.tsv"
    table.write_text(table.read_text().replace("Entity 3", "Entity 33"))
    captioner = Viewer()
    assert run(dataset, captioner).captioned == 1
    assert "Entity 33" in (captioner.asked[0].prompt or "")
    assert read_captions(dataset).texts["e3"] == "shows 3"
    assert len(current_rows(dataset)) == 6


def rename(dataset: Path, old: str, new: str) -> None:
    table = dataset / "entities.tsv"
    table.write_text(table.read_text().replace(f"{old}\n", f"{new}\n"))


def test_a_text_of_before_is_read_again_once_its_images_are_back(dataset: Path) -> None:
    for scope in ("visual", "summary"):
        run(dataset, Viewer(), scope=scope, keep_all=True)
    paint(dataset / "images/e1/b.png", 100)
    run(dataset, Viewer(), scope="visual")
    run(dataset, Viewer(), scope="summary", keep_all=True)
    (dataset / "images/e1/b.png").unlink()
    for scope, items in (("visual", 1), ("summary", 2)):
        captioner, task = Viewer(), Task(scope=scope, keep_all=True)
        assert preview(dataset, captioner, task).at_once == items
        report = run(dataset, captioner, scope=scope, keep_all=True)
        assert (captioner.asked, report.reused, report.left) == ([], items, 0)
        parts = Store(dataset).parts
        assert run(dataset, captioner, scope=scope, keep_all=True).done_before == report.items
        assert Store(dataset).parts == parts
    assert read_captions(dataset, scope="visual").texts["e1"] == "shows 1"
    assert read_link_captions(dataset, "summary").texts["e1", "e0"] == "shows 0 1"


@pytest.mark.parametrize("scope", ["entity", "relation", "pair"])
def test_a_text_of_before_is_read_again_once_its_entity_has_its_name_again(
    dataset: Path, scope: str
) -> None:
    class Echo(Viewer):
        def caption(self, requests: Sequence[Request]) -> list[str]:
            return [f"{text} as {(request.prompt or '').count('Omega')}"
                    for request, text in zip(requests, super().caption(requests), strict=True)]

    def read() -> set[str]:
        return set(current_rows(dataset)["text"].to_pylist())

    run(dataset, Echo(), scope=scope, keep_all=True)
    before = read()
    rename(dataset, "Entity 1", "Omega")
    run(dataset, Echo(), scope=scope, keep_all=True)
    assert read() != before
    rename(dataset, "Omega", "Entity 1")
    captioner = Echo()
    assert run(dataset, captioner, scope=scope, keep_all=True).reused > 0
    assert (captioner.asked, read()) == ([], before)
    parts = Store(dataset).parts
    run(dataset, captioner, scope=scope, keep_all=True)
    assert Store(dataset).parts == parts


def test_a_retry_too_reads_the_text_of_before(dataset: Path) -> None:
    run(dataset, Moody())
    rename(dataset, "Entity 3", "Omega")
    worse = Moody()
    worse.mood = [""] * 4
    run(dataset, worse)
    rename(dataset, "Omega", "Entity 3")
    run(dataset, worse, retry=("rejected",))
    assert read_captions(dataset).texts["e3"] == "3-0-0"


def test_instead_of_starts_from_what_was_asked_last(dataset: Path) -> None:
    """Once for an entity, whatever was asked before and by however many sources."""
    run(dataset, Sullen(), scope="visual")
    run(dataset, Sullen(), scope="visual", names_hidden=True)
    paint(dataset / "images/e1/b.png", 100)
    run(dataset, Sullen(), scope="visual")
    viewer = Viewer()
    for done in (0, 6):
        report = run(dataset, viewer, scope="visual", instead_of="sullen")
        assert (report.items, report.done_before, len(viewer.asked)) == (6, done, 6)
        parts = Store(dataset).parts
    assert Store(dataset).parts == parts
    said = read_captions(dataset, "viewer", scope="visual").texts["e1"]
    assert said in ("shows 1", "shows 1 100")


# --- the file of questions -------------------------------------------------------------------


def test_standard_questions_say_who_and_what() -> None:
    for hidden in (False, True):
        asked = read_prompts(names_hidden=hidden)
        assert set(asked) == {*SCOPES, "relevance"}
    assert asked["entity"].id == "entity-hidden-1"
    assert asked["relevance"].id == "relevance-1"


def test_gaps_are_filled_at_once() -> None:
    prompt = read_prompts()["relation"]
    filled = prompt.fill({"name": "{relation}", "relation": "{name}"})
    assert "belongs to {relation}." in filled
    assert filled.endswith("its {name}.")


def test_edited_question_has_another_hash(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text(STANDARD.read_text().replace("Say in one", "Tell in one"))
    own, standard = read_prompts(file), read_prompts()
    assert own["entity"].id == standard["entity"].id
    assert own["entity"].hash != standard["entity"].hash
    assert own["relevance"] == standard["relevance"]


def test_a_file_of_questions_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text("\ufeff" + STANDARD.read_text())
    assert read_prompts(file) == read_prompts()


@pytest.mark.parametrize(("text", "message"), [
    ("x", "is no TOML"), ("[moon]\nversion = 1\n", "no question is called 'moon'"),
    ("[entity]\nnamed = 'x'\n", r"\[entity\]: write a table with version"),
    ("entity = 1\n", r"\[entity\]: write a table with version"),
    ("[entity]\nversion = 1\nname = 'x'\n", "unknown key 'name'"),
    ("[entity]\nversion = 1\nhidden = 'x'\n", "no question under 'named'"),
    ("[entity]\nversion = 1\nnamed = ' '\n", "no question under 'named'"),
    ("[entity]\nversion = 1\nnamed = 'Is {tail} there?'\n", r"gap {tail}; it may have {name}"),
    ("[relation]\nversion = 1\nnamed = 'What of {name}?'\n", r"lacks the gap {relation}"),
])
def test_malformed_file_of_questions_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "own.toml"
    file.write_text(text)
    with pytest.raises(InputError, match=f"own.toml.*{message}"):
        read_prompts(file)
    file.unlink()
    with pytest.raises(InputError, match=r"own.toml cannot be read"):
        read_prompts(file)


def test_hidden_question_must_not_have_a_name(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text("[pair]\nversion = 1\nnamed = '{head}'\nhidden = 'What of {head}?'\n")
    with pytest.raises(InputError, match=r"'hidden' has the gap {head}; it may have none"):
        read_prompts(file, names_hidden=True)


# --- rejected texts --------------------------------------------------------------------------


class Moody(Shades):
    """Says nothing of worth at first."""

    identity = Identity("moody")
    prompted = True
    mood: Sequence[str | Refusal] = ("", "stock photo", Refusal.SERVER)

    def caption(self, requests: Sequence[Request]) -> list[str | Refusal]:  # type: ignore[override]
        good = super().caption(requests)
        return [self.mood[shown(request)[0]] if shown(request)[0] < len(self.mood) else text
                for request, text in zip(requests, good, strict=True)]


def test_rejected_texts_are_kept_and_retried_on_request(dataset: Path) -> None:
    report = run(dataset, Moody())
    assert (report.captioned, report.rejected, len(report.failures)) == (5, 2, 1)
    assert report.failures[0].mend.endswith("--retry failed")
    rows = {row["entity"]: (row["text"], row["status"], row["reason"])
            for row in Store(dataset).read().to_pylist()}
    assert rows["e0"] == ("", "rejected", "empty")
    assert rows["e1"] == ("stock photo", "rejected", "boilerplate")
    assert rows["e2"] == (None, "failed", "server-error")
    assert rows["e3"] == ("3-0-0", "ok", None)

    better = Moody()
    better.mood = ()
    assert run(dataset, better).captioned == 0
    assert run(dataset, better, retry=("failed",)).captioned == 1
    once = run(dataset, better, retry=("rejected",), limit=1)
    assert (once.captioned, once.done_before, once.left, len(better.asked)) == (1, 4, 1, 2)
    last = run(dataset, better, retry=("rejected", "failed"))
    assert (last.captioned, last.rejected, last.left, len(better.asked)) == (1, 0, 0, 3)
    assert {row["status"] for row in Store(dataset).read().to_pylist()} == {"ok"}


def test_retries_with_a_limit_come_to_all_in_turn(dataset: Path) -> None:
    run(dataset, Sullen())
    asked: list[tuple[int, ...]] = []
    for _ in range(3):
        captioner = Sullen()
        run(dataset, captioner, retry=("rejected",), limit=2)
        asked += map(shown, captioner.asked)
    assert sorted(asked) == [(i, 0, 0) for i in range(6)]


class Other(Moody):
    """Another model, in a better mood."""

    identity = Identity("other")
    mood = ()


class Sullen(Viewer):
    """One who says nothing."""

    identity = Identity("sullen", "m")

    def caption(self, requests: Sequence[Request]) -> list[str]:
        self.asked += requests
        return ["" for _ in requests]


def test_a_verdict_that_is_no_number_is_none(dataset: Path) -> None:
    class Broken(Viewer):
        def judge(self, requests: Sequence[Request]) -> list[YesNo | Refusal]:
            return [YesNo(math.nan, math.nan) for _ in requests]

    report = run(dataset, Broken(), scope="pair")
    rows = Store(dataset).read()
    assert set(zip(rows["status"].to_pylist(), rows["reason"].to_pylist(), strict=True)) == {
        ("failed", "not-a-number")}
    assert report.captioned == 0
    assert {failure.reason for failure in report.failures} == {"not-a-number"}
    assert len(report.failures) == report.judged
    assert run(dataset, Viewer(), scope="pair", retry=("failed",)).judged == report.judged > 0


@pytest.mark.parametrize("scope", ["entity", "visual"])
def test_an_image_that_cannot_be_read_for_a_while_is_done_later(
    dataset: Path, monkeypatch: pytest.MonkeyPatch, scope: str
) -> None:
    paint(dataset / "images/e1/b.png", 100)

    def hiccup(root: Path, path: str) -> bytes:
        if path == "images/e1/b.png":
            raise ImageError(Flaw.UNREADABLE)
        return read_bytes(root, path)

    with monkeypatch.context() as patch:
        patch.setattr("caption_cache.build.asking.read_bytes", hiccup)
        report = run(dataset, Viewer(), scope=scope)
    assert (report.left, report.failures) == (1, [])
    assert run(dataset, Viewer(), scope=scope).captioned == 1
    assert sorted(text.removeprefix("shows ") for entity, _, text in said(dataset, scope)
                  if entity == "e1") == (["1", "100"] if scope == "entity" else ["1 100"])


def down(requests: Sequence[Request]) -> list[Refusal]:
    """A captioner's `caption` while its server is down."""
    return [Refusal.SERVER for _ in requests]


def test_a_clock_that_was_ahead_hides_nothing_that_came_later(
    dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captioner = Viewer()
    with monkeypatch.context() as patch, pytest.raises(InputError, match="None of the 6 images"):
        later = time.time_ns() + 300 * 10**9
        patch.setattr("caption_cache.store.time.time_ns", lambda: later)
        patch.setattr(captioner, "caption", down)
        run(dataset, captioner)
    assert run(dataset, captioner, retry=("failed",)).captioned == 6
    assert run(dataset, captioner, retry=("failed",)).captioned == 0
    assert read_captions(dataset).texts["e1"] == "shows 1"


def test_of_equal_questions_the_newest_answer_is_taken(
    dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paint(dataset / "images/e1/a.png", 0)  # the image of e0

    with monkeypatch.context() as patch:
        captioner = Shades()
        patch.setattr(captioner, "caption", down)
        with pytest.raises(InputError, match="None of the 6 images"):
            run(dataset, captioner)
    (dataset / "images/e0/a.png").rename(dataset / "kept.png")
    assert run(dataset, Shades(), retry=("failed",)).captioned == 5
    (dataset / "kept.png").rename(dataset / "images/e2/b.png")
    report = run(dataset, Shades())
    assert (report.reused, report.captioned, report.failures) == (1, 0, [])


def test_images_are_shrunk_as_far_as_the_captioner_looks(dataset: Path) -> None:
    class Small(Viewer):
        most_side = 2

    captioner = Small()
    run(dataset, captioner)
    assert {image.size for request in captioner.asked for image in request.images} <= {
        (2, 2), (2, 1), (1, 2)}


def test_half_a_letter_costs_one_text_only(dataset: Path) -> None:
    class Cut(Viewer):
        def caption(self, requests: Sequence[Request]) -> list[str]:
            return [text + "\ud83d" * (text == "shows 1") for text in super().caption(requests)]

    report = run(dataset, Cut())
    assert (report.captioned, report.rejected) == (6, 1)
    rows = {row["entity"]: row for row in Store(dataset).read().to_pylist()}
    assert (rows["e1"]["text"], rows["e1"]["reason"]) == ("shows 1\ufffd", "control-characters")


def test_what_one_source_could_not_say_is_asked_of_another(dataset: Path) -> None:
    run(dataset, Moody())
    (dataset / "images/e1/a.png").rename(dataset / "images/e1/b.png")  # costs nothing
    other = Other()
    report = run(dataset, other, instead_of="moody")
    assert (report.items, report.captioned) == (3, 3)
    assert sorted(map(shown, other.asked)) == [(0, 0, 0), (1, 0, 0), (2, 0, 0)]
    assert run(dataset, other, instead_of="moody").captioned == 0
    paint(dataset / "images/e0/a.png", 50)
    run(dataset, Moody())
    assert read_captions(dataset, "moody").texts == {
        "e0": "50-0-0", **{f"e{i}": f"{i}-0-0" for i in (3, 4, 5)}}
    both = read_captions(dataset, "moody,other")
    assert both.texts == {"e0": "50-0-0", **{f"e{i}": f"{i}-0-0" for i in range(1, 6)}}
    assert [source.identity.captioner for source in both.sources] == ["moody", "other"]
    for retry in (("rejected",), ("failed",), ("rejected", "failed")):
        assert preview(dataset, Sullen(), Task(instead_of="moody", retry=retry),
                       sample=0).to_caption == 2  # e0 has another image now
    with pytest.raises(InputError, match="no captions by 'nobody'"):
        run(dataset, other, instead_of="nobody")


def test_the_preferred_source_is_read_where_it_speaks(dataset: Path) -> None:
    run(dataset, Shades())
    run(dataset, Viewer(), limit=2)
    viewed = read_captions(dataset, "viewer").texts
    assert len(viewed) == 2
    assert read_captions(dataset, "viewer,shades").texts == {
        **read_captions(dataset, "shades").texts, **viewed}
    assert read_captions(dataset, "shades,viewer").texts == read_captions(
        dataset, "shades").texts


@pytest.mark.parametrize("scope", ["pair", "summary", "relation"])
def test_links_can_be_asked_of_another_too(dataset: Path, scope: str) -> None:
    before = run(dataset, Sullen(), scope=scope, keep_all=True)
    assert before.rejected == before.items > 0
    viewer, plain = Viewer(), Viewer()
    run(dataset, viewer, scope=scope, instead_of="sullen")
    assert viewer.judged == [], "which images count was decided before"
    run(dataset, plain, scope=scope, keep_all=True)
    assert plain.asked == [], "the same questions, so the same keys"
    assert len(viewer.asked) == before.captioned


@pytest.mark.parametrize(("scope", "left"), [
    ("pair", {("e0", "e1")}), ("summary", {("e0", "e1")}),
    ("relation", {("e0", "near"), ("e1", "^near")})])
def test_nobody_else_is_asked_of_what_train_does_not_say_any_more(
    dataset: Path, scope: str, left: set[tuple[str, str]]
) -> None:
    run(dataset, Sullen(), scope=scope, keep_all=True)
    (dataset / "train.tsv").write_text("head\trelation\ttail\ne0\tnear\te1\n")
    table = dataset / "entities.tsv"
    table.write_text(table.read_text().replace("e9\tEntity 9\n", ""))
    for split in ("valid", "test"):
        (dataset / f"{split}.tsv").write_text("head\trelation\ttail\n")
    run(dataset, Other(), scope=scope, instead_of="sullen")
    assert {(row["entity"], row["neighbour"] or row["relation"])
            for row in Store(dataset).read().to_pylist() if row["captioner"] == "other"} == left


def test_a_damaged_file_is_one_failure_whoever_is_asked_instead(dataset: Path) -> None:
    (dataset / "images/e1/a.png").write_bytes(b"\x89PNG\r\n")
    run(dataset, Viewer())
    report = run(dataset, Other(), instead_of="viewer")
    assert (report.items, [failure.entity for failure in report.failures]) == (1, ["e1"])


@pytest.mark.parametrize("scope", ["summary", "commonsense", "visual"])
def test_one_text_of_all_images_is_read_whatever_images_the_others_saw(
    dataset: Path, scope: str
) -> None:
    class Second(Viewer):
        identity = Identity("second")

    run(dataset, Viewer(), scope=scope, keep_all=True)
    paint(dataset / "images/e1/b.png", 100)
    run(dataset, Second(), scope=scope, keep_all=True)
    for names, text in (("viewer,second", "shows 0 1"), ("second,viewer", "shows 0 1 100")):
        if scope == "summary":
            assert read_link_captions(dataset, scope, names).texts["e0", "e1"] == text
        else:
            said = read_captions(dataset, names, scope=scope).texts
            assert said["e1"] == text.replace(" 0", "")


def test_names_of_sources_may_fit_some_scopes_only(dataset: Path) -> None:
    for scope in ("commonsense", "visual"):
        run(dataset, Viewer(), scope=scope)
        run(dataset, Viewer(), scope=scope, names_hidden=True)
    named = read_profiles(dataset, "commonsense-1,visual-1")
    assert [source.prompt_id for source in named.sources] == ["commonsense-1", "visual-1"]
    assert named.texts["e1"] == "Entity 1 is shows 1 And shows 1"
    for names, wrong in (("commonsense-1,visual-2", "visual-2"), ("visual-1", "visual-1")):
        with pytest.raises(InputError, match=f"no captions by '{wrong}'"):
            read_profiles(dataset, names)


def test_retry_leaves_what_a_file_is_to_blame_for(dataset: Path) -> None:
    (dataset / "images/e1/b.svg").write_text("<svg/>")
    run(dataset, Shades())
    before = Store(dataset).parts
    assert len(run(dataset, Shades(), retry=("failed",)).failures) == 1
    assert Store(dataset).parts == before


def test_unprompted_texts_pass_the_gate_too(nations: Path) -> None:
    rows = Store(nations).read()
    assert set(rows["status"].to_pylist()) == {"ok"}
    assert json.dumps(rows["text"][0].as_py())
