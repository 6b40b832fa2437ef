"""``kgc explore``: a run, on a page in the browser."""

from __future__ import annotations

import signal
import sys
import threading
from argparse import Namespace
from pathlib import Path

from caption_cache.command_line import Answer, Parser
from caption_cache.errors import InputError


def add_explore(parser: Parser) -> None:
    """Add ``kgc explore``."""
    command = parser.add_command("explore", _explore, (
        "serve a page on this machine that asks a run and shows why it answers so"))
    command.add_argument("run", type=Path, help=(
        "the folder of a run: of a generator, a scorer or a fusion"))
    command.add_argument("--port", type=int, metavar="N",
                         help="by default the first free one from 7860 on")
    command.add_argument("--no-browser", action="store_true", help="do not open the page")


def _explore(options: Namespace) -> Answer | None:
    import json
    from importlib.util import find_spec

    if find_spec("gradio") is None:
        raise InputError("The explorer needs Gradio; install it with "
                         "pip install 'kgc-seq2seq[ui]'.")
    from kgc_seq2seq.explorer.serve import serve

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with serve(options.run, options.port, browser=not options.no_browser) as url:
            # Told at once: programs wait for it.
            sys.stdout.write(json.dumps({"url": url}) + "\n" if options.json else
                             f"{options.run} can be asked at {url} (Ctrl-C ends it).\n")
            sys.stdout.flush()
            threading.Event().wait()
    except KeyboardInterrupt:
        return None
    return None
