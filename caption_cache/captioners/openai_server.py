"""Any server that speaks OpenAI's chat API (vLLM, SGLang, …): captions from many machines.

Only the standard library is used: a client of its own would be a heavy dependency, and its
retries could not be bounded or tested as these are.
"""

from __future__ import annotations

import json
import math
import os
import random
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPException, HTTPMessage
from typing import IO, Any, Literal, TypeVar
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, build_opener
from urllib.request import Request as Call

from PIL import Image

from caption_cache.captioners import Identity, InVain, Refusal, Request, YesNo
from caption_cache.errors import InputError
from caption_cache.images import data_url, shrunk

R = TypeVar("R")

_LONGEST_PAUSE = 60.0  # seconds, whatever the server asks for
_LONGEST_ANSWER = 2**24  # bytes
_PASSING = (408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529)
"""Status codes worth another try."""


@dataclass(frozen=True)
class OpenAIOptions:
    """Which server writes the captions, and how. The key is read from the environment."""

    model: str
    """The model, as the server calls it."""
    base_url: str = "http://localhost:8000/v1"
    """Where the server is; it is no part of what identifies a text."""
    revision: str = ""
    """The revision the server runs, if you know it: the server does not tell, and texts of
    different revisions are told apart by it alone."""
    api_key_variable: str = "OPENAI_API_KEY"
    """The environment variable that holds the key; it is sent to the server and kept nowhere."""
    concurrency: int = 16
    """Requests under way at once."""
    max_tokens: int = 64
    """The longest caption, in tokens."""
    temperature: float = 0.0
    """0 takes the likeliest tokens."""
    top_p: float = 1.0
    """Texts are drawn from the likeliest tokens with this share of the probability."""
    seed: int = 0
    """Of the server's lots, as far as it honours it."""
    image_format: Literal["jpeg", "png"] = "jpeg"
    """How images are sent: small (quality 90), or without any loss."""
    max_side: int = 1024
    """Images with a longer side are shrunk to it before they are sent, in pixels."""
    timeout: float = 120.0
    """Seconds until an answer must be complete."""
    retries: int = 6
    """So often a request is tried again after an error that may pass."""
    first_pause: float = 1.0
    """Seconds before the first of them, at most; each later pause is up to twice as long."""

    def __post_init__(self) -> None:
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"--base-url {self.base_url!r} is no address; give one such as "
                             "http://localhost:8000/v1.")
        if "@" in parts.netloc or parts.query:
            raise InputError("--base-url holds a password or a query, which would show up in "
                             "process lists and logs; put the key into the environment variable "
                             f"{self.api_key_variable}.")
        for name, value, least in (("concurrency", self.concurrency, 1),
                                   ("max-tokens", self.max_tokens, 1),
                                   ("max-side", self.max_side, 16), ("retries", self.retries, 0),
                                   ("temperature", self.temperature, 0),
                                   ("first-pause", self.first_pause, 0)):
            if value < least:
                raise InputError(f"--{name} is {value}; give {least} or more.")
        if self.timeout <= 0:
            raise InputError(f"--timeout is {self.timeout}; give more than 0 seconds.")
        if not 0 < self.top_p <= 1:
            raise InputError(f"--top-p is {self.top_p}; give more than 0, at most 1.")


class OpenAICaptioner:
    """A server as a captioner of the cache."""

    Options = OpenAIOptions
    prompted = True

    def __init__(self, options: OpenAIOptions) -> None:
        self._options = options
        self._key = os.environ.get(options.api_key_variable, "").strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise InputError(f"The key in the environment variable {options.api_key_variable} has "
                             "a line break or letters that no key has; copy it again.")
        self._open = build_opener(_NoRedirect).open
        self._lock = threading.Lock()
        self._in_vain = 0

    @property
    def batch_size(self) -> int:
        """How many requests `caption` gets at once: enough that few wait for the slowest."""
        return 4 * self._options.concurrency

    @property
    def most_side(self) -> int:
        """Longer sides are shrunk to it before an image is sent, in pixels."""
        return self._options.max_side

    @property
    def identity(self) -> Identity:
        """Everything that determines the texts, as far as a server lets us know."""
        options, judging = self._options, self.judge_identity
        return Identity(judging.captioner, judging.model, judging.revision, {
            "max_tokens": options.max_tokens, "temperature": options.temperature,
            "top_p": options.top_p, "seed": options.seed}, judging.back_end)

    @property
    def judge_identity(self) -> Identity:
        """Everything that determines the answers to yes/no questions."""
        options = self._options
        return Identity("openai", options.model, options.revision, {},
                        f"{options.image_format}-{options.max_side}")

    def caption(self, requests: Sequence[Request]) -> list[str | Refusal]:
        """Write one text for every request; see `Captioner.caption`."""
        options = self._options
        how = {"max_tokens": options.max_tokens, "temperature": options.temperature,
               "top_p": options.top_p, "seed": options.seed}
        return self._all(requests, how, _text_of)

    def judge(self, requests: Sequence[Request]) -> list[YesNo | Refusal]:
        """Weigh yes against no at the first token; see `Judge.judge`."""
        how = {"max_tokens": 1, "temperature": 0.0, "logprobs": True, "top_logprobs": 20}
        return self._all(requests, how, _weighed)

    def _all(
        self, requests: Sequence[Request], how: Mapping[str, object], read: Callable[[Any], R]
    ) -> list[R | Refusal]:
        stop = threading.Event()

        def one(request: Request) -> R | Refusal:
            if stop.is_set():  # no answer counts any more
                return Refusal.SERVER
            try:
                return self._one(request, how, read, stop)
            except BaseException:
                stop.set()
                raise

        with ThreadPoolExecutor(self._options.concurrency) as pool:
            waiting = [pool.submit(one, request) for request in requests]
            try:
                return [each.result() for each in waiting]
            except BaseException:
                stop.set()
                pool.shutdown(cancel_futures=True)
                raise

    def _one(
        self, request: Request, how: Mapping[str, object], read: Callable[[Any], R],
        stop: threading.Event,
    ) -> R | Refusal:
        """One request, tried again while that may help."""
        body = json.dumps({"model": self._options.model, **how, "messages": [{
            "role": "user", "content": [
                *({"type": "image_url", "image_url": {"url": self._encoded(image)}}
                  for image in request.images),
                {"type": "text", "text": request.prompt or ""}]}]}).encode()
        refusal, unreachable = Refusal.SERVER, False
        for attempt in range(self._options.retries + 1):
            wait = 0.0
            try:
                answer = read(json.loads(self._post(body)))
                with self._lock:
                    self._in_vain = 0
                return answer
            except HTTPError as error:
                with error:
                    said = self._complaint(error)
                if error.code not in _PASSING:
                    return self._refused(error.code, said)
                refusal, unreachable, wait = Refusal.SERVER, False, _asked_pause(error.headers)
            except (TimeoutError, URLError, HTTPException, OSError) as error:
                cause = error.reason if isinstance(error, URLError) else error
                said = " ".join(str(cause).split()) or type(cause).__name__
                slow = isinstance(cause, TimeoutError)
                refusal = Refusal.SLOW if slow else Refusal.SERVER
                unreachable = not slow and isinstance(error, URLError)
            except (ValueError, KeyError, IndexError, TypeError, AttributeError):
                refusal, unreachable, said = Refusal.MALFORMED, False, "its answer is malformed"
            if attempt < self._options.retries:
                # Drawn, so that the requests that failed together do not come back together.
                longest = self._options.first_pause * 2**attempt
                drawn = random.uniform(longest / 2, longest)
                if stop.wait(min(max(wait, drawn), _LONGEST_PAUSE)):
                    return refusal
        if unreachable:
            raise InputError(f"{self._options.base_url} cannot be reached ({said}); start the "
                             "server or mend --base-url, then run the command again.")
        return self._in_vain_again(refusal, said)

    def _refused(self, code: int, said: str) -> Refusal:
        """What follows from a status code that another try would not change."""
        where = self._options.base_url
        if code in (401, 403):
            raise InputError(f"{where} refuses the key (status {code}); put a valid one into the "
                             f"environment variable {self._options.api_key_variable}.")
        if code in (404, 405):
            raise InputError(f"{where} has no model {self._options.model!r}, or no chat "
                             f"completions (status {code}: {said}); mend --model or --base-url.")
        if 300 <= code < 400:
            raise InputError(f"{where} leads elsewhere (status {code}), and the key is sent to "
                             "no other place; give the final address as --base-url.")
        return self._in_vain_again(Refusal.REFUSED, said)

    def _in_vain_again(self, refusal: Refusal, said: str) -> Refusal:
        """Give one request up; but where none succeeds any more, say so.

        Raises:
            InVain: None has for a while.
        """
        with self._lock:
            self._in_vain += 1
            count = self._in_vain
        if count >= max(8, 2 * self._options.concurrency):
            raise InVain(f"{self._options.base_url} gave no text for the last {count} requests "
                         f"({said}); see its log, then run the command again with --retry "
                         "failed.", refusal)
        return refusal

    def _post(self, body: bytes) -> bytes:
        """Send a request; the whole answer must be there in time, however it dribbles in."""
        deadline = time.monotonic() + self._options.timeout
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        call = Call(f"{self._options.base_url.rstrip('/')}/chat/completions", body, headers)
        parts: list[bytes] = []
        with self._open(call, timeout=self._options.timeout) as answer:
            promised = answer.headers.get("Content-Length")
            while part := answer.read1(65536):
                parts.append(part)
                if time.monotonic() > deadline:
                    raise TimeoutError
                if sum(map(len, parts)) > _LONGEST_ANSWER:
                    raise ValueError("the answer never ends")
        whole = b"".join(parts)
        if promised is not None and len(whole) < int(promised):
            raise ValueError("the answer is cut off")
        return whole

    def _encoded(self, image: Image.Image) -> str:
        return data_url(shrunk(image, self.most_side), self._options.image_format)

    def _complaint(self, error: HTTPError) -> str:
        """What the server said of an error, on one short line, and without the key."""
        try:
            said = error.read(2000).decode("utf-8", "replace")
        except (OSError, HTTPException):
            said = ""
        try:
            told = json.loads(said)
            told = told.get("error", told)
            said = str(told.get("message", told) if isinstance(told, dict) else told)
        except (ValueError, AttributeError):
            pass
        if self._key:
            said = said.replace(self._key, "…")
        said = re.sub(r"\bsk-[\w-]{8,}", "…", said)  # a server may show a part of it
        return " ".join(said.split())[:200] or error.reason


class _NoRedirect(HTTPRedirectHandler):
    """Another place must not get the key."""

    def redirect_request(
        self, req: Call, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        return None


def _text_of(answer: Any) -> str:
    text = answer["choices"][0]["message"]["content"]
    if text is None:
        return ""
    if not isinstance(text, str):
        raise ValueError("the content is no text")
    return text.strip()


def _weighed(answer: Any) -> YesNo:
    told = answer["choices"][0].get("logprobs")
    if not told or not told.get("content"):
        raise InputError("The server gives no log-probabilities, so it cannot tell whether an "
                         "image is relevant; build with --keep-all.")
    chances = {"yes": 0.0, "no": 0.0}
    for each in told["content"][0]["top_logprobs"]:
        word = each["token"].strip(" ▁Ġ")
        if word in ("Yes", "yes", "No", "no"):
            chances[word.lower()] += math.exp(each["logprob"])
    if not any(chances.values()):
        raise ValueError("neither yes nor no is among the likeliest words")
    return YesNo(**chances)


def _asked_pause(headers: Message) -> float:
    """The seconds that the server asks to wait; 0 when it does not, or gives a date."""
    try:
        return max(0.0, float(headers.get("Retry-After", 0)))
    except ValueError:
        return 0.0
