"""Bars of long work, where standard error is a file."""

from __future__ import annotations

import pytest

from caption_cache.progress import progress_bar, tracked


def test_a_vanishing_bar_leaves_nothing_in_a_file(capfd: pytest.CaptureFixture[str]) -> None:
    assert list(tracked(range(3), "counting")) == [0, 1, 2]
    assert capfd.readouterr().err == ""


def test_a_minute_without_a_terminal_leaves_a_line(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("caption_cache.progress.MINUTE", 0.0)
    assert list(tracked(range(2), "counting")) == [0, 1]
    assert capfd.readouterr().err == "counting: 1 of 2\ncounting: 2 of 2\n"


def test_a_lasting_bar_leaves_its_end(capfd: pytest.CaptureFixture[str]) -> None:
    with progress_bar(visible=True) as bar:
        assert list(bar.track(range(3), description="counting")) == [0, 1, 2]
    assert "3/3" in capfd.readouterr().err
