"""Printing a page; skipped where Chromium is not installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.errors import ConfigError
from simulations.audits import printing


def test_a_page_is_printed_beside_itself(tmp_path: Path) -> None:
    if printing.browser() is None:
        pytest.skip("Chromium is not installed")
    page = tmp_path / "page.html"
    page.write_text("<!doctype html><title>a page</title><p>words", encoding="utf-8")
    assert printing.printed(page) == tmp_path / "page.pdf"
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")


def test_without_chromium_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="Install it, or print the page from a browser"):
        printing.printed(tmp_path / "page.html")
    program = tmp_path / "chromium"
    program.write_text("#!/bin/sh\nexit 3\n", encoding="utf-8")
    program.chmod(0o755)
    with pytest.raises(ConfigError, match="Chromium ended with CalledProcessError"):
        printing.printed(tmp_path / "page.html")
