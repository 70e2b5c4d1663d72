"""The published schemas: valid, complete, and what real files keep to."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from shared.privacy.statement import Statement
from simulations.schemas import File, json_schema
from tests import running
from tests.running import FinishedRun

FILES: tuple[File, ...] = ("run", "release", "plan")


def _properties(schema: dict[str, Any], root: dict[str, Any]) -> set[str]:
    if "$ref" in schema:
        return _properties(root["$defs"][schema["$ref"].rsplit("/", 1)[1]], root)
    return {name for part in schema.get("anyOf", []) for name in _properties(part, root)} | set(schema.get("properties", {}))


@pytest.mark.parametrize("file", FILES)
def test_a_schema_is_printed_as_json_and_names_its_dialect(file: File, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (("schema", file), ("schema", file, "--json")):
        outcome = running.run_tacit(capsys, *arguments)
        assert outcome.status == 0, outcome.stderr
        assert outcome.json == json_schema(file)
    assert json_schema(file)["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_all_three_files_state_privacy_under_the_names_of_one_statement() -> None:
    names = set(Statement.model_fields)
    release, plan, run = (json_schema(file) for file in ("release", "plan", "run"))
    assert names <= _properties(release, release)
    assert names <= _properties(plan, plan)
    assert names <= _properties(run["properties"]["privacy"], run)


def test_a_schema_names_every_key_of_a_real_file_and_refuses_another(
    finished_run: FinishedRun, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = running.run_tacit(capsys, "privacy", "plan", "--users", 3000, "--json").json
    held = {name: json.loads((finished_run.folder / f"{name}.json").read_text()) for name in ("run", "release")}
    for file, content in {**held, "plan": plan}.items():
        schema = json_schema(file)  # type: ignore[arg-type]
        assert set(content) <= _properties(schema, schema)
        if file != "plan":
            assert schema["additionalProperties"] is False
            assert set(schema["required"]) <= set(content)


def test_a_release_report_whose_epsilons_do_not_follow_from_its_events_is_not_rendered(
    finished_run: FinishedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(finished_run.folder, tmp_path / "run"))
    assert running.run_tacit(capsys, "report", run).status == 0  # the negative control
    pages = {name: (run / name).read_bytes() for name in ("report.html", "release.html")}
    release = json.loads((run / "release.json").read_text())
    release["claims"][0]["epsilon"] = 1.0
    (run / "release.json").write_text(json.dumps(release))
    outcome = running.run_tacit(capsys, "report", run)
    assert outcome.status == 1
    assert outcome.stderr.startswith(
        "tacit: Expected epsilons that follow from the events in release.json, got epsilon=1.00"
    )
    assert outcome.stderr.count("\n") == 1
    assert {name: (run / name).read_bytes() for name in pages} == pages
