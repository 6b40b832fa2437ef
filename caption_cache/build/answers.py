"""What a captioner says, as outcomes that the store can hold."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

from caption_cache import gate
from caption_cache.build.plan import Outcome
from caption_cache.captioners import Captioner, Judge, Refusal, Request


def texts(captioner: Captioner, requests: Sequence[Request], language: str) -> list[Outcome]:
    """Ask for texts; what is not worth using is rejected."""
    outcomes = []
    for request, text in zip(requests, captioner.caption(requests), strict=True):
        if isinstance(text, Refusal):
            outcomes.append(Outcome(None, "failed", text.value))
        elif reject := gate.judge(text := _whole(text), request.prompt, language):
            outcomes.append(Outcome(text, "rejected", reject.value))
        else:
            outcomes.append(Outcome(text, "ok", None))
    return outcomes


def _whole(text: str) -> str:
    """The text with U+FFFD for halves of a UTF-16 letter, which no file can hold."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def verdicts(judge: Judge, requests: Sequence[Request]) -> list[Outcome]:
    """Ask yes/no questions."""
    outcomes = []
    for answer in judge.judge(requests):
        if not isinstance(answer, Refusal) and not isfinite(answer.yes + answer.no):
            answer = Refusal.BROKEN
        outcomes.append(
            Outcome(None, "failed", answer.value) if isinstance(answer, Refusal) else
            Outcome(f"{'yes' if answer.yes > answer.no else 'no'}, P(yes) {answer.yes:.4g}, "
                    f"P(no) {answer.no:.4g}", "ok", None))
    return outcomes
