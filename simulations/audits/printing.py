"""A page on paper: Chromium, where it is installed, prints it to PDF. What never lives here: what is on the page."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from shared.errors import ConfigError

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_SECONDS = 120


def browser() -> str | None:
    """The program of an installed Chromium; None where there is none."""
    return next((found for name in _NAMES if (found := shutil.which(name)) is not None), None)


def printed(page: Path) -> Path:
    """Prints a page to a PDF file beside it.

    Args:
        page: An HTML file that loads nothing.

    Raises:
        ConfigError: If Chromium is not installed, or prints nothing.
    """
    program = browser()
    if program is None:
        raise ConfigError(
            f"Expected Chromium to print {page.name}, found none. Install it, or print the page from a browser."
        )
    target = page.with_suffix(".pdf")
    with tempfile.TemporaryDirectory(prefix="tacit-print-") as profile:
        command = [
            *(program, "--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer"),
            *(f"--user-data-dir={profile}", f"--print-to-pdf={target}", page.resolve().as_uri()),
        ]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=_SECONDS)
        except (subprocess.SubprocessError, OSError) as error:
            raise ConfigError(
                f"Expected {page.name} to be printed, Chromium ended with {type(error).__name__}. Print the page from a "
                "browser."
            ) from None
    return target
