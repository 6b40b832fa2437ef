"""Serves the explorer on loopback, and keeps what is not of this machine out."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from caption_cache.errors import InputError

LOOPBACK = "127.0.0.1"
MAX_UPLOAD = "10mb"
"""Of a file: a photograph from a phone is let in."""
POLICY = ("default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; object-src 'none'; "
          "base-uri 'self'; frame-ancestors 'self'; form-action 'self'")
"""A browser then asks nothing of any other host, whatever a page says."""


@contextmanager
def serve(run: Path, port: int | None, *, browser: bool) -> Iterator[str]:
    """Serve the page of a run until the context ends.

    Args:
        run: The folder of the run.
        port: None: the first free one from 7860 on.
        browser: Whether to open the page in the default browser.

    Yields:
        The URL of the page.

    Raises:
        InputError: The run cannot be opened, or the port is taken or none.
    """
    if port is not None and not 0 < port < 2**16:
        raise InputError(f"Port {port} is none; choose one from 1 to 65535 with --port.")
    with tempfile.TemporaryDirectory(prefix="kgc-explore-") as uploads:
        # Read by Gradio while it is imported and when components are made.
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": uploads,
                       "HF_HUB_OFFLINE": "1", **unproxied()}
        import gradio as gr

        from kgc_seq2seq.explorer.app import build
        from kgc_seq2seq.explorer.explorer import Explorer

        page = build(Explorer(run))
        theme = gr.themes.Base(
            font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"],
            primary_hue="blue",
        ).set(  # Gradio's own hints are too faint to read
            body_text_color_subdued="*neutral_600", body_text_color_subdued_dark="*neutral_300")
        try:
            _, url, _ = page.launch(
                server_name=LOOPBACK, server_port=port, inbrowser=browser, share=False,
                prevent_thread_lock=True, quiet=True, show_error=False, ssr_mode=False,
                pwa=False, enable_monitoring=False, run_history=False, mcp_server=False,
                max_file_size=MAX_UPLOAD, allowed_paths=[], footer_links=["api", "settings"],
                theme=theme, css_paths=Path(__file__).with_name("style.css"),
                app_kwargs={"middleware": [
                    # Another name for this machine would come from a foreign page.
                    Middleware(TrustedHostMiddleware, allowed_hosts=[LOOPBACK, "localhost"]),
                    Middleware(OwnHostOnly)]})
        except OSError:
            taken = "Every port from 7860 on" if port is None else f"Port {port}"
            raise InputError(f"{taken} is taken; choose another with --port.") from None
        try:
            yield url
        finally:
            page.close(verbose=False)


def unproxied() -> dict[str, str]:
    """Has this machine asked past any proxy, as Gradio does to see whether it serves.

    Returns:
        Variables of the environment, with the hosts that stand there already.
    """
    names = ("no_proxy", "NO_PROXY")
    hosts = ",".join([*filter(None, map(os.environ.get, names)), LOOPBACK, "localhost"])
    return dict.fromkeys(names, hosts)


class OwnHostOnly:
    """Has browsers ask nothing of other hosts, asks them nothing itself, and takes nothing from
    their pages."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["content-security-policy"] = POLICY
            await send(message)

        origin = Headers(scope=scope).get("origin") if scope["type"] == "http" else None
        if origin is not None and urlsplit(origin).hostname not in (LOOPBACK, "localhost"):
            # A browser sends files for any page unless it is told not to.
            await PlainTextResponse("This page is not of this host.", 403)(scope, receive, send)
            return
        if scope["type"] == "http" and "://" in scope["path"]:  # which is decoded
            # Gradio's file=http://…, file/http://… and proxy=http://… would fetch what they name.
            scope = {**scope, "path": "/refused", "raw_path": b"/refused"}
        await self.app(scope, receive, answer)
