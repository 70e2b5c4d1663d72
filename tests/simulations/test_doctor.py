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


def test_doctor_says_that_there_is_no_cache_and_how_to_mend_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_bert: str
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TACIT_CACHE", str(tmp_path / "file" / "below"))
    checks = {check["name"]: check for check in examine(tiny_bert)}
    cache = checks["disk of the cache"]
    assert (cache["ok"], cache["value"].endswith("read-only")) == (None, True)
    assert cache["advice"].endswith("set TACIT_CACHE to a writable folder.")


def test_doctor_needs_no_home(monkeypatch: pytest.MonkeyPatch, tiny_bert: str) -> None:
    def nobody(*_: object) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("TACIT_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", nobody)
    checks = {check["name"]: check for check in examine(tiny_bert)}
    assert checks["disk of the cache"]["value"] == "no home folder"
    assert "TACIT_CACHE" in checks["disk of the cache"]["advice"]
