"""The doctor: what it checks, and that what is wrong comes with advice."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulations.doctor import examine


def test_doctor_finds_what_this_environment_has(tiny_bert: str) -> None:
    checks = {check["name"]: check for check in examine(tiny_bert)}
    for name in ("python", "torch", "flwr", "opacus", "transformers", "peft"):
        assert checks[name]["ok"] is True
        assert checks[name]["value"][0].isdigit()
        assert checks[name]["advice"] == ""
    assert {"device", "cores", "memory", "disk here", "disk of the cache"} <= set(checks)
    assert checks["family"] == {"name": "family", "value": "bert, 2 layers of width 16", "ok": True, "advice": ""}
    assert checks["weights"]["value"].startswith("sha256 ")


def test_doctor_verifies_the_checksum_of_the_default_backbone() -> None:
    checks = {check["name"]: check for check in examine()}
    assert checks["backbone"]["value"].startswith("all-MiniLM-L6-v2, 6 layers, sha256 53aa51172d14")
    assert checks["backbone"]["ok"] is True


def test_doctor_says_how_to_mend_a_missing_backbone(tmp_path: Path) -> None:
    checks = {check["name"]: check for check in examine(str(tmp_path))}
    assert checks["backbone"]["ok"] is False
    assert checks["backbone"]["advice"].startswith("Expected config.json in the backbone directory, got none")


@pytest.mark.parametrize("name", ["disk here", "disk of the cache"])
def test_doctor_does_not_fail_where_a_folder_does_not_exist_yet(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_bert: str
) -> None:
    monkeypatch.setenv("TACIT_CACHE", str(tmp_path / "not" / "yet"))
    checks = {check["name"]: check for check in examine(tiny_bert)}
    assert checks[name]["value"].endswith("GiB free")
    assert not (tmp_path / "not").exists()
