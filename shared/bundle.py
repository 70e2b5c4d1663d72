"""The bundle that Flower carries: a run file, and three lines that load the installed server. No other code travels.

Flower installs a bundle on whoever runs it. A node of Tacit does not: it reads the run file out of the bundle, within
bounds, and answers with its own installed code (`client/node/worker.py`).
"""

from __future__ import annotations

import io
import zipfile
from typing import Final

from shared.errors import ConfigError
from shared.run_file import IN_BUNDLE, RunFile
from shared.signing import LARGEST_DOCUMENT

_LARGEST_BUNDLE: Final = 10_000_000
_PROJECT: Final = """\
[project]
name = "tacit-run"
version = "0.1.0"
description = "A run of Tacit: its signed run file."
license = "Apache-2.0"

[tool.flwr.app]
publisher = "tacit"

[tool.flwr.app.components]
serverapp = "federation:server"
clientapp = "federation:client"

[tool.flwr.app.config]
folder = ""
"""
_FEDERATION: Final = """\
# Nodes read run-file.json and run their installed code; this file runs on the server alone.
import client.app
import server.deployment

client = client.app.app
server = server.deployment.app
"""


def bundle_files(run_file: RunFile) -> dict[str, str | bytes]:
    """The files of a bundle, by name, for `flwr run`."""
    return {"pyproject.toml": _PROJECT, "federation.py": _FEDERATION, IN_BUNDLE: run_file.document.to_bytes()}


def run_file_in(bundle: bytes) -> bytes:
    """The run file out of a bundle's bytes; nothing else in it is looked at.

    Raises:
        ConfigError: If there is none.
    """
    try:
        if len(bundle) > _LARGEST_BUNDLE:
            raise ValueError
        with zipfile.ZipFile(io.BytesIO(bundle)) as packed:
            found = packed.getinfo(IN_BUNDLE)
            if found.file_size > LARGEST_DOCUMENT:
                raise ValueError
            with packed.open(found) as stream:
                content = stream.read(LARGEST_DOCUMENT + 1)
    except (ValueError, KeyError, zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError):
        raise ConfigError(
            f"Expected a bundle with a run file ({IN_BUNDLE}), got another. This node answers runs that `tacit server run` "
            "started, and no other app."
        ) from None
    if len(content) > LARGEST_DOCUMENT:
        raise ConfigError(f"Expected at most {LARGEST_DOCUMENT} bytes in {IN_BUNDLE}, got more. Ask the operator for it.")
    return content
