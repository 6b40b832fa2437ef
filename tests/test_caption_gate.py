"""Junk is told from texts, each kind by its name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caption_cache.gate import Reject, judge

ASKED = ("This image belongs to Łódź. Say in one sentence what it shows, naming only what can be "
         "seen: objects, people, places, colours, shapes, writing.")

GOOD = [
    "A red tram stands before a brick factory with tall windows.",
    "colours white, red. layout charged field: white; red disc at the centre.",
    "red", "Two men", "The coat of arms of Łódź, a golden boat on red.",
    "A flag with red, white, red, white, red and white stripes and a blue canton.",
    "Image shows the Eiffel Tower at night; the city lies below it.",
    "A sign reads 東京駅 above the entrance of a station.",
    "The portrait of a man with a moustache, in the style of the 19th century.",
    "no clear layout: white at the top, white at the bottom, white at the centre.",
    "La Rochelle and Les Sables-d'Olonne are seen from the sea, with sails in front of them.",
    "An old photo of the image of a saint in a church.",
    "A very very very tall tower.",
]


@pytest.mark.parametrize("text", GOOD)
def test_texts_pass(text: str) -> None:
    assert judge(text, ASKED) is None
    assert judge(text, None) is None


@pytest.mark.parametrize(("text", "reason"), [
    ("", Reject.EMPTY), (" \n", Reject.EMPTY), ("...", Reject.EMPTY), ("🎌", Reject.EMPTY),
    ("a red\x00flag", Reject.CONTROL), ("a red \ufffd flag", Reject.CONTROL),
    ("\x1b[31mred", Reject.CONTROL), ("a \ue000 flag", Reject.CONTROL),
    ("stock photo", Reject.BOILERPLATE), ("Royalty-free image of a cat", Reject.BOILERPLATE),
    ("a cat, Shutterstock", Reject.BOILERPLATE), ("the picture of the", Reject.BOILERPLATE),
    ("I'm sorry, but I can't help with that.", Reject.BOILERPLATE),
    ("As an AI language model, I see a flag.", Reject.BOILERPLATE),
    ("I cannot identify people.", Reject.BOILERPLATE), ("image not found", Reject.BOILERPLATE),
    ("No image available", Reject.BOILERPLATE),
    (ASKED, Reject.ECHO), (f"Question: {ASKED} Answer:", Reject.ECHO),
    ("Say in one sentence what it shows, naming only what can be seen.", Reject.ECHO),
    (f"{ASKED} A red flag.", Reject.ECHO),
    ("the city the city the city the city the city the city", Reject.REPETITION),
    ("of the picture. of the picture. of the picture. of the picture.", Reject.REPETITION),
    ("red red red red red red red red red red red red", Reject.REPETITION),
    ("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", Reject.REPETITION),
    ("A flag " + "!?" * 20, Reject.REPETITION),
    (" ".join(f"a {word} flag and" for word in ["red", "blue"] * 12), Reject.REPETITION),
    ("一面红白相间的旗帜，中间有一颗星星。", Reject.LANGUAGE),
    ("Красный флаг с белым крестом", Reject.LANGUAGE),
    ("Eine rote Flagge mit einem weißen Kreuz, das in der Mitte ist.", Reject.LANGUAGE),
    ("Un drapeau rouge avec une croix blanche et le bord du champ est bleu.", Reject.LANGUAGE),
    ("Una bandera roja con una cruz blanca en el centro y los bordes azules.", Reject.LANGUAGE),
])
def test_junk_has_a_name(text: str, reason: Reject) -> None:
    assert judge(text, ASKED) is reason


def test_languages_can_be_chosen() -> None:
    german = "Eine rote Flagge mit einem weißen Kreuz, das in der Mitte ist."
    assert judge(german, ASKED, "de") is None
    assert judge(german, ASKED, "any") is None
    assert judge("The flag is red and it has a white cross in the middle.", ASKED, "de") is (
        Reject.LANGUAGE)


def test_letters_of_the_question_are_allowed() -> None:
    assert judge("東京駅", "What does 東京 show?") is None
    assert judge("東京駅", "What does Tokyo show?") is Reject.LANGUAGE


@given(st.text(), st.none() | st.text(), st.sampled_from(["en", "any"]))
def test_every_text_is_judged(text: str, prompt: str | None, language: str) -> None:
    reason = judge(text, prompt, language)
    assert reason is None or isinstance(reason, Reject)
    if not text.strip():
        assert reason is Reject.EMPTY
    if language == "any":
        assert reason is not Reject.LANGUAGE


@given(st.text(st.characters(categories=["L"]), min_size=1, max_size=6), st.integers(12, 40))
def test_a_word_said_over_and_over_is_rejected(word: str, times: int) -> None:
    assert judge(" ".join([word] * times), None, "any") in (Reject.REPETITION, Reject.CONTROL)
