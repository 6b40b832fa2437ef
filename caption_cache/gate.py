"""Which texts are not worth using, each with a named reason."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from difflib import SequenceMatcher
from enum import StrEnum


class Reject(StrEnum):
    """Why a text is rejected; the value is what the cache records as the reason."""

    EMPTY = "empty"
    CONTROL = "control-characters"
    BOILERPLATE = "boilerplate"
    ECHO = "echo-of-the-prompt"
    REPETITION = "runaway-repetition"
    LANGUAGE = "wrong-language"


_BOILERPLATE = re.compile("|".join((
    r"\b(stock|royalty[- ]free) (photo|image|picture|vector|illustration|photography)s?\b",
    r"\b(shutterstock|getty ?images|alamy|istock|dreamstime|depositphotos)\b",
    r"\bimage (not|un)\s?(found|available)\b", r"\bno image available\b", r"\bclick to enlarge\b",
    r"\bas an? (ai|artificial intelligence|(large )?language model)\b",
    r"\b(i'?m|i am) (sorry|unable|not able)\b.*\b(can'?t|cannot|unable|not able|see|help|assist)\b",
    r"\bi (can'?t|cannot|can not) (see|view|help|assist|identify|provide|describe)\b",
    r"^(the |this |an? )?(image|photo|picture|photograph)( of)?( the| an?)?[.!]?$",
)), re.IGNORECASE | re.DOTALL)
_WORD = re.compile(r"\w+(?:['’]\w+)*")

_COMMON = {
    "en": "the a an and of in on with is are this that it to for at by from there",
    "de": "der die das und ein eine einer einem ist sind mit auf von im zu den dem des es nicht",
    "fr": "le la les un une des et est sont dans sur avec du de il elle cette ce au qui en",
    "es": "el la los las un una unos y es son en con del de que por para se al hay",
    "it": "il lo la gli le un una e sono in con del della di che per si nel c'è su",
    "pt": "o a os as um uma e são em com do da dos de que por para se no na",
    "nl": "de het een en is zijn in op met van dat die voor aan er te uit naar bij door",
}
# Words so frequent that a sentence of the language hardly does without them.
_COMMON_WORDS = {language: frozenset(words.split()) for language, words in _COMMON.items()}
LANGUAGES = (*_COMMON, "any")
"""What can be expected; ``any`` lets every language pass."""

_SHORT = 8
"""Of so few words, no language is judged."""


def judge(text: str, prompt: str | None, language: str = "en") -> Reject | None:
    """Find out whether a text is junk.

    Args:
        text: What the captioner said.
        prompt: What it was asked; None when it takes no question.
        language: One of `LANGUAGES`: the one expected. Only what is surely another is rejected;
            the letters of the question (of a name in it) are always allowed.

    Returns:
        The reason, or None for a text worth using.
    """
    if not text.strip():
        return Reject.EMPTY
    if any(letter not in "\n\t\r" and (letter == "\ufffd" or unicodedata.category(letter) in (
            "Cc", "Co", "Cn", "Cs")) for letter in text):
        return Reject.CONTROL
    words = _WORD.findall(text.lower())
    if not words:
        return Reject.EMPTY
    if _BOILERPLATE.search(text.strip()):
        return Reject.BOILERPLATE
    if prompt is not None and _echoes(words, _WORD.findall(prompt.lower())):
        return Reject.ECHO
    if _runs_away(text, words):
        return Reject.REPETITION
    if language != "any" and (_foreign_letters(text, prompt) or _foreign_words(words, language)):
        return Reject.LANGUAGE
    return None


def _echoes(words: list[str], asked: list[str]) -> bool:
    """Whether the question, or most of it, makes up most of the text."""
    same = SequenceMatcher(None, words, asked, autojunk=False).find_longest_match().size
    return same >= 5 and (same >= 0.7 * len(words) or same >= 0.7 * len(asked))


def _runs_away(text: str, words: list[str]) -> bool:
    """Whether one thing is said over and over: a phrase, a word, or a sign."""
    for size in range(1, 9):
        least = max(4, -(-12 // size)) if size < 3 else 4 if size == 3 else 3
        run = 0
        for index in range(size, len(words)):
            run = run + 1 if words[index] == words[index - size] else 0
            if run >= (least - 1) * size:
                return True
    if len(words) >= 20:
        triples = Counter(zip(words, words[1:], words[2:], strict=False))
        if len(triples) < 0.4 * triples.total():
            return True
    return re.search(r"(\S{1,6}?)\1{15,}", text) is not None


def _foreign_letters(text: str, prompt: str | None) -> bool:
    """Whether most letters are of scripts that neither Latin nor the question has."""
    known = {"LATIN", *(_script(letter) for letter in prompt or "" if letter.isalpha())}
    letters = [_script(letter) for letter in text if letter.isalpha()]
    return 2 * sum(script not in known for script in letters) > len(letters)


def _script(letter: str) -> str:
    if letter.isascii():
        return "LATIN"
    return unicodedata.name(letter, "").split(" ")[0].split("-")[0]


def _foreign_words(words: list[str], language: str) -> bool:
    if len(words) < _SHORT:
        return False
    counts = {name: sum(word in common for word in words)
              for name, common in _COMMON_WORDS.items()}
    own = counts.pop(language)
    return max(counts.values()) >= max(3, 3 * own + 1)
