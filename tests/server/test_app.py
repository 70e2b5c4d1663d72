"""The app that Flower's own commands run: it leaves the same release report, and says where a run does not protect."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from client.app import app as client_app
from server.app import flower_app
from shared.config import RunConfig
from shared.errors import NotProtected
from simulations.preparing import write_partitions
from tests import running


def _config(tmp_path: Path, tiny_bert: str, *, public: bool) -> RunConfig:
    data = running.write_interactions(tmp_path / "interactions.csv")
    config = running.settings(
        data, tiny_bert, data__public_catalog=public, federation__rounds=0, statistics__releases="none"
    )
    write_partitions(config, tmp_path / "population")
    return config.with_values({"data.population": str(tmp_path / "population"), "run.out": str(tmp_path / "run")})


def _run(config: RunConfig) -> None:
    running.run_in_process(flower_app(), client_app, num_nodes=3, run_config=config.to_flat())


def test_a_run_under_flower_leaves_the_release_page_that_report_renders_again(
    tmp_path: Path, tiny_bert: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _run(_config(tmp_path, tiny_bert, public=True))
    page = tmp_path / "run" / "release.html"
    written = page.read_text(encoding="utf-8")
    assert "a recommender from statistics alone" in written
    page.unlink()
    again = running.run_tacit(capsys, "report", tmp_path / "run", "--json")
    assert again.status == 0, again.stderr
    assert again.json == {"release": str(page)}
    assert page.read_text(encoding="utf-8") == written


def test_a_run_without_a_public_catalog_warns_first_and_fails_once_everything_is_written(
    tmp_path: Path, tiny_bert: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("flwr"), "propagate", True)
    logging.getLogger("flwr").setLevel(logging.INFO)
    config = _config(tmp_path, tiny_bert, public=False)
    with pytest.raises(NotProtected, match=r"NOT PROTECTED against honest-but-curious server, .*catalog.* The run is whole"):
        _run(config)
    assert "--run-config 'data.public_catalog=true'" in caplog.text
    assert {"release.html", "release.json", "adapter"} <= {path.name for path in (tmp_path / "run").iterdir()}


def test_the_bundle_that_flower_builds_renders_the_release_page(tmp_path: Path, tiny_bert: str) -> None:
    from flwr.cli.build import build_fab_from_disk

    _run(_config(tmp_path, tiny_bert, public=True))
    page = tmp_path / "run" / "release.html"
    written = page.read_text(encoding="utf-8")
    page.unlink()
    bundle = tmp_path / "bundle"
    zipfile.ZipFile(io.BytesIO(build_fab_from_disk(running.ROOT))).extractall(bundle)
    code = (
        "import sys, pathlib; sys.path.insert(0, sys.argv[1]); import server.app\n"
        "assert server.__file__.startswith(sys.argv[1]), server.__file__\n"
        "server.app.finish(pathlib.Path(sys.argv[2]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(bundle), str(tmp_path / "run")],
        cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert page.read_text(encoding="utf-8") == written
