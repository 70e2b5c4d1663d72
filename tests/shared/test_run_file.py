"""Run files: what is signed comes back, computed anew; what is out of range is refused before it is signed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.bundle import bundle_files, run_file_in
from shared.errors import ConfigError, TacitError
from shared.run_file import IN_BUNDLE, OF_A_MACHINE, RunFile
from shared.signing import sign
from tests.run_files import DEVICES, NODE, SERVER, SERVER_KEY, SILOS, run_file


@pytest.mark.parametrize("settings", [SILOS, DEVICES, {**SILOS, "privacy.epsilon": float("inf")}])
def test_a_run_file_leads_to_the_same_plan_on_both_ends(settings: dict[str, Any]) -> None:
    made = run_file(settings)
    read = RunFile.read(made.document.to_bytes(), server=SERVER_KEY, where="run-file.json")
    assert read.plan == made.plan
    assert read.config == made.config
    assert read.digest == made.digest
    assert read.message_bytes == made.message_bytes


def test_a_machines_own_settings_are_not_in_it() -> None:
    settings = run_file().document.body["settings"]
    assert not set(settings) & set(OF_A_MACHINE)
    assert "/" not in "".join(str(value) for value in settings.values())


@pytest.mark.parametrize(
    "changes",
    [{"name": ""}, {"name": "../up"}, {"name": "a" * 65}, {"purpose": ""}, {"purpose": "x" * 501}, {"valid_until": -1}]
    + [{"purpose": f"films{sign}films"} for sign in ("\n", "\r", "\x1b[2K", "\x00", "\u202e", "\u2028")],
)
def test_what_is_out_of_range_is_not_signed(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="Expected"):
        run_file(**changes)


def _body(**changes: Any) -> dict[str, Any]:
    return {**run_file().document.body, **changes}


@pytest.mark.parametrize(
    "body",
    [
        _body(schema="tacit-run-file-0"),
        _body(purpose="Recommend films\n  Against the server: epsilon 0.01"),
        _body(more=1),
        {name: value for name, value in _body().items() if name != "purpose"},
        _body(users="3000"),
        _body(settings={**_body()["settings"], "privacy.secret": 1}),
        _body(settings={**_body()["settings"], "privacy.mechanism": "magic"}),
        *(_body(settings={**_body()["settings"], name: ""}) for name in OF_A_MACHINE),
        _body(settings={**_body()["settings"], "privacy.ledger": "/tmp/empty.sqlite"}),
        _body(message_bytes={"pairs": "many"}),
        _body(catalog="AB" * 32),
    ],
)
def test_a_server_that_signs_nonsense_is_refused_in_one_line(body: dict[str, Any]) -> None:
    with pytest.raises(TacitError) as caught:
        RunFile.read(sign("run", body, SERVER).to_bytes(), server=SERVER_KEY, where="run-file.json")
    assert "\n" not in str(caught.value)


def test_shares_of_noise_that_would_leave_in_the_open_are_refused_on_both_ends() -> None:
    with pytest.raises(ConfigError, match=r"^Expected sums that clients mask in the proposal, got noise in shares and sums"):
        run_file({**DEVICES, "secure_aggregation.simulate": "sum"})
    body = run_file(DEVICES).document.body
    opened = {**body, "settings": {**body["settings"], "secure_aggregation.simulate": "sum"}}
    with pytest.raises(ConfigError, match=r"^Expected sums that clients mask in run-file\.json"):
        RunFile.read(sign("run", opened, SERVER).to_bytes(), server=SERVER_KEY, where="run-file.json")


def test_another_signer_and_another_kind_are_refused() -> None:
    for content in (run_file(key=NODE).document.to_bytes(), sign("kit", _body(), SERVER).to_bytes()):
        with pytest.raises(ConfigError, match="Expected"):
            RunFile.read(content, server=SERVER_KEY, where="run-file.json")


def test_a_bundle_holds_the_run_file_and_no_code_of_the_run() -> None:
    files = bundle_files(run_file())
    assert files[IN_BUNDLE] == run_file().document.to_bytes()
    assert set(files) == {"pyproject.toml", "federation.py", IN_BUNDLE}


@given(st.binary(max_size=200))
def test_what_is_no_bundle_is_refused(content: bytes) -> None:
    with pytest.raises(ConfigError, match="Expected a bundle with a run file"):
        run_file_in(content)
