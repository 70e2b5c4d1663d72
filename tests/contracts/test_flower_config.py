"""`[tool.flwr.app]` in `pyproject.toml` as Flower reads it: every key, its default, and what a bundle holds.

Run as a script, this file writes the section anew: `python tests/contracts/test_flower_config.py`.
"""

from __future__ import annotations

import io
import re
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
COMMAND = "python tests/contracts/test_flower_config.py"
HEADER = "[tool.flwr.app.config]"


def _section() -> str:
    """The table that `pyproject.toml` has to hold, in TOML."""
    import tomli_w

    from shared.config import keys

    lines = [tomli_w.dumps({"_": value}).replace("_ = ", f"{key} = ", 1).strip() for key, value in keys().items()]
    return "\n".join([HEADER, f"# Every default of shared/config/. Written by `{COMMAND}`.", *lines]) + "\n"


def _rewritten(pyproject: str) -> str:
    """`pyproject.toml` with the table written anew; it ends at the next header or the end of the file."""
    kept = re.sub(rf"^{re.escape(HEADER)}\n.*?(?=^\[|\Z)", "", pyproject, flags=re.MULTILINE | re.DOTALL)
    return kept.rstrip("\n") + "\n\n" + _section()


def test_flower_knows_every_key_with_the_default_of_run_config() -> None:
    from flwr.common.config import get_fused_config_from_dir

    from shared.config import keys

    found, expected = get_fused_config_from_dir(ROOT, {}), keys()
    assert found == expected, f"[tool.flwr.app.config] differs from shared/config/: run `{COMMAND}`"
    wrong_types = {key for key, value in expected.items() if type(found[key]) is not type(value)}
    assert not wrong_types, f"of another type than the default: run `{COMMAND}`"


def test_writing_the_section_anew_changes_nothing_and_adds_a_missing_key() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert _rewritten(text) == text, f"run `{COMMAND}`"
    without = re.sub(r"^training\.local_steps = .*\n", "", text, flags=re.MULTILINE)
    assert without != text
    assert _rewritten(without) == text


def test_an_override_on_flowers_command_line_reaches_run_config() -> None:
    from flwr.common.config import get_fused_config_from_dir, parse_config_args

    from shared.config import RunConfig

    overrides = parse_config_args(["training.local_steps=3 privacy.epsilon=inf data.population='a folder'"])
    config = RunConfig.from_mapping(get_fused_config_from_dir(ROOT, overrides))
    assert config.training.local_steps == 3
    assert not config.is_private
    assert config.data.population == "a folder"


def test_flower_refuses_a_key_that_is_not_listed() -> None:
    from flwr.common.config import get_fused_config_from_dir

    with pytest.raises(ValueError, match=r"Key 'training\.batch_sise' is not present in the main dictionary"):
        get_fused_config_from_dir(ROOT, {"training.batch_sise": 3})


def test_flower_accepts_the_apps_and_their_modules() -> None:
    from flwr.common.config import get_project_config, validate_config

    valid, errors, _ = validate_config(get_project_config(ROOT), check_module=True, project_dir=ROOT)
    assert valid, errors


def test_the_bundle_ships_client_server_and_shared_and_neither_simulations_nor_tests() -> None:
    from flwr.cli.build import build_fab_from_disk

    names = zipfile.ZipFile(io.BytesIO(build_fab_from_disk(ROOT))).namelist()
    assert {"client/app.py", "server/app.py", "shared/config/sections.py", "shared/privacy/plan.py"} <= set(names)
    assert {name.split("/")[0] for name in names} == {"client", "server", "shared", "pyproject.toml", ".info"}


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    target = ROOT / "pyproject.toml"
    target.write_text(_rewritten(target.read_text(encoding="utf-8")), encoding="utf-8")
