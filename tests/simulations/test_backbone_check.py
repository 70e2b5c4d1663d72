"""What the doctor finds out about a backbone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.model.families import SUPPORTED_MODEL_TYPES
from simulations.backbone_check import examine_backbone
from tests import running

Folders = Callable[[str], str]


@pytest.mark.parametrize("family", SUPPORTED_MODEL_TYPES)
def test_a_sound_backbone_passes_every_check(family: str, tiny_family: Folders) -> None:
    rows = {row["name"]: row for row in examine_backbone(tiny_family(family))}
    assert rows["family"]["value"].startswith(f"{family}, ")
    assert {"tokenizer", "weights", "looks ahead", "gradients of each user", "privacy"} <= set(rows)
    assert {f"memory, {weights}" for weights in ("float32", "bfloat16", "int8", "int4")} <= set(rows)
    assert not [name for name, row in rows.items() if row["ok"] is False]


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_a_model_that_looks_ahead_is_found_out(family: str, tiny_family: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what makes these families causal they look at both sides."""
    from shared.model import families

    monkeypatch.setattr(families, "make_causal", lambda transformer: None)
    monkeypatch.setattr(families, "prepare", lambda config, num_layers: setattr(config, "num_hidden_layers", num_layers))
    last = list(examine_backbone(tiny_family(family)))[-1]
    assert last["ok"] is False and last["advice"].startswith("Expected a backbone that does not look ahead, got one whose")


def test_a_directory_without_tokenizer_or_of_another_family_is_said(tiny_family: Folders, tmp_path: Path) -> None:
    shutil.copytree(tiny_family("llama"), tmp_path / "bare")
    (tmp_path / "bare" / "tokenizer.json").unlink()
    rows = {row["name"]: row for row in examine_backbone(str(tmp_path / "bare"))}
    assert rows["tokenizer"]["ok"] is False and rows["tokenizer"]["advice"].startswith("Save the tokenizer")
    config = tmp_path / "bare" / "config.json"
    config.write_text(config.read_text(encoding="utf-8").replace('"llama"', '"t5"'), encoding="utf-8")
    (row,) = examine_backbone(str(tmp_path / "bare"))
    assert row["ok"] is False and "got model_type=t5" in row["advice"] and "takes inputs_embeds" in row["advice"]


def test_weights_that_need_a_package_which_is_missing_are_said_to(
    tiny_family: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    from importlib import util

    find = util.find_spec
    rows = {row["name"]: row for row in examine_backbone(tiny_family("llama"))}
    assert not [name for name, row in rows.items() if "pip install" in row["value"]]
    monkeypatch.setattr(util, "find_spec", lambda name, *rest: None if name == "bitsandbytes" else find(name, *rest))
    rows = {row["name"]: row for row in examine_backbone(tiny_family("llama"))}
    lacking = {name for name, row in rows.items() if row["value"].endswith("; needs pip install 'tacit[quantized]'")}
    assert lacking == {"memory, int8", "memory, int4"}


def test_the_command_says_it_in_json(tiny_family: Folders, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = running.run_tacit(capsys, "doctor", "--backbone", tiny_family("qwen3"), "--json")
    assert {"family", "looks ahead"} <= {check["name"] for check in outcome.json["checks"]}
