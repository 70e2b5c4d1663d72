"""`tacit privacy plan`: what it says, what it refuses, and that its prices are those of real plans."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from shared.config import RunConfig
from shared.privacy.calibration import plan_of
from simulations.privacy_plan import explain, noise_in_the_mean
from tests import running

TRAINING = ("--rounds", 10, "--set", "statistics.releases=none")
USERS = ("--users", 3000, *TRAINING)


def _explain(**settings: Any) -> dict[str, Any]:
    values = {key.replace("__", "."): value for key, value in settings.items()}
    config = RunConfig.from_mapping({"federation.rounds": 10, "statistics.releases": "none", **values})
    clients = config.federation.clients or 3000
    return explain(config, num_users=3000, num_clients=clients, data_name="some data")


def test_json_has_a_claim_for_every_adversary_with_all_that_a_claim_needs(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = running.run_tacit(capsys, "privacy", "plan", *USERS, "--json")
    assert outcome.status == 0, outcome.stderr
    plan = outcome.json
    assert [claim["adversary"] for claim in plan["claims"]] == [
        "outsider", "server", "active-server", "colluding-clients", "own-device",
    ]  # fmt: skip
    for claim in plan["claims"]:
        assert {"adversary", "unit", "relation", "scope", "epsilon", "delta", "protected", "statement"} <= set(claim)
    assert 7.98 < plan["epsilon"] <= 8.0
    assert plan["group"]["epsilon"] > 2 * plan["epsilon"]
    assert plan["rdp_cross_check"] > plan["epsilon"]
    assert plan["noise"]["noise_multiplier"] == plan["mechanism"]["noise_multiplier"]


def test_the_words_name_claim_noise_group_knobs_and_what_is_not_protected(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = running.run_tacit(capsys, "privacy", "plan", *USERS)
    assert outcome.status == 0
    text = " ".join(outcome.stdout.split())
    for words in (
        "Against honest-but-curious server: Emptying one user's full history, with the client still replying, changes",
        "by at most a factor of 2,981 (e^8.00), plus 0.00001.", "A guess about that user improves from 1 % to at most 97 %.",
        "honest-but-curious server yes 8.00 1e-5 user, zero-out", "Noise: added inside each silo",
        "A client sends", "the change of the trained adapter weights (each round, 10 at most): clipped for each unit",
        "A person with two accounts: epsilon", "if you changed", "privacy.epsilon = 4", "federation.rounds = 20",
        "no popularity prior", "Not protected", "does not hold (a stated limit):",
    ):  # fmt: skip
        assert words in text


def test_without_a_configuration_it_speaks_of_the_embedded_data(capsys: pytest.CaptureFixture[str]) -> None:
    plan = running.run_tacit(capsys, "privacy", "plan", "--json").json
    assert plan["data"] == {"name": "synthetic", "users": 3000, "clients": 4}


def test_it_reads_a_configuration_and_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = running.write_interactions(tmp_path / "interactions.csv")
    (tmp_path / "run.toml").write_text("[privacy]\nepsilon = 5.0\n[federation]\nclients = 0\n", encoding="utf-8")
    outcome = running.run_tacit(
        capsys,
        "privacy",
        "plan",
        "--config",
        tmp_path / "run.toml",
        "--data",
        data,
        "--rounds",
        3,
        "--json",
        "--public-catalog",
    )
    assert outcome.status == 0, outcome.stderr
    assert outcome.json["data"]["users"] == outcome.json["data"]["clients"] == 30
    assert outcome.json["mechanism"]["name"] == "distributed"
    assert outcome.json["mechanism"]["rounds"] == 3
    assert outcome.json["adversary"] == "outsider"


def test_a_plan_across_devices_has_shares_of_noise_or_says_why_the_server_is_trusted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for users, mechanism in ((940, "distributed"), (20_000, "central")):
        outcome = running.run_tacit(capsys, "privacy", "plan", "--users", users, "--clients", 0)
        assert outcome.status == 0, outcome.stderr
        said = " ".join(outcome.stdout.split())
        assert f"mechanism {mechanism}" in said
        trusted = (
            "warning: The server adds the noise and has to be trusted, because noise cannot come in shares. Secure sums"
        )
        assert (trusted in said) is (mechanism == "central")
        assert ("A deployment (`tacit server run`) masks them" in said) is (mechanism == "distributed")


def test_a_plan_that_does_not_protect_as_asked_says_so_first_and_ends_with_a_status_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = running.write_interactions(tmp_path / "interactions.csv")
    catalog = "because this does not hold: The catalog and its texts exist independently of these users (declared)."
    shares = ["--set", "privacy.adversary=server"]
    hidden = "because this does not hold: Single updates are hidden from the server by secure aggregation."
    for arguments, reason in (([], catalog), (["--no-public-catalog"], catalog), ([*shares, "--public-catalog"], hidden)):
        command = ["privacy", "plan", "--data", data, "--clients", 0, *arguments]
        outcome = running.run_tacit(capsys, *command)
        assert outcome.status == 3
        said = " ".join(outcome.stdout.split())
        assert said.index("NOT PROTECTED against") < said.index("multiplier")
        assert reason in said
        assert reason in outcome.stderr
        in_json = running.run_tacit(capsys, *command, "--json")
        assert in_json.status == 3
        own = [claim for claim in in_json.json["claims"] if claim["adversary"] == in_json.json["adversary"]]
        assert not own[0]["protected"]
        assert f"because this does not hold: {own[0]['failed_assumptions'][0]}." == reason
    assert running.run_tacit(capsys, "privacy", "plan", "--data", data, "--clients", 0, "--public-catalog").status == 0
    assert running.run_tacit(capsys, "privacy", "plan", "--data", data, "--epsilon", "inf").status == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epsilon", "0.000001"], "Expected a noise multiplier up to 10000 to reach epsilon=1e-06"),
        (["--epsilon", "-1"], "Expected privacy.epsilon > 0"),
        (["--epsilon", "nan"], "Expected privacy.epsilon > 0"),
        (["--set", "privacy.delta=0.001"], "Expected delta < 1/population, got delta=0.001, population=3000 (public)."),
        (["--set", "privacy.l2_clip_norm=0"], "Expected privacy.l2_clip_norm > 0"),
        (["--set", "training.sampling_rate=1.5"], "Expected training.sampling_rate <= 1"),
        (["--set", "privacy.unit=interaction"], "Expected a combination that can be claimed"),
        (["--set", "privacy.mechanism=central"], "Expected one user a client for privacy.mechanism=central"),
        (
            ["--clients", "0", "--set", "privacy.mechanism=central", "--set", "privacy.adversary=server"],
            "Expected a combination that can be claimed",
        ),
        (
            ["--clients", "0", "--set", "privacy.expected_cohort=4000"],
            "Expected privacy.expected_cohort <= number of clients",
        ),
        (["--clients", "4000"], "Expected federation.clients <= number of users"),
        (["--set", "privacy.clipping=adaptive"], "Expected privacy.clipping=fixed for privacy.mechanism=dp-sgd"),
    ],
)
def test_what_cannot_be_promised_is_one_clear_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = running.run_tacit(capsys, "privacy", "plan", *USERS, *arguments)
    assert outcome.status == 2
    assert outcome.stdout == ""
    assert outcome.stderr.startswith(f"tacit: {message}"), outcome.stderr
    assert outcome.stderr.count("\n") == 1


def test_a_delta_above_a_tenth_of_one_over_the_population_is_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = running.run_tacit(capsys, "privacy", "plan", *USERS, "--set", "privacy.delta=0.0001", "--json")
    (warning,) = outcome.json["warnings"]
    assert "above a tenth of 1/population" in warning


def test_a_run_without_privacy_claims_nothing() -> None:
    plan = _explain(privacy__epsilon=float("inf"))
    assert (plan["is_private"], plan["epsilon"], plan["knobs"]) == (False, None, [])
    assert not any(claim["protected"] for claim in plan["claims"])


@pytest.mark.parametrize("clients", [0, 4])
def test_the_price_of_a_knob_is_the_noise_of_the_plan_with_the_knob_turned(clients: int) -> None:
    plan = _explain(federation__clients=clients)
    prices = {row["knob"]: row for row in plan["knobs"]}
    for knob, settings in {
        "privacy.epsilon = 4": {"privacy.epsilon": 4.0},
        "federation.rounds = 20": {"federation.rounds": 20},
        "no popularity prior": {"privacy.popularity_noise_multiplier": 0.0},
    }.items():
        today, turned = (
            plan_of(
                RunConfig.from_mapping(
                    {"federation.clients": clients, "federation.rounds": 10, "statistics.releases": "none", **change}
                ),
                num_users=3000, num_clients=clients or 3000,
            )
            for change in ({}, settings)
        )  # fmt: skip
        assert prices[knob]["noise_multiplier"] == turned.noise_multiplier
        assert prices[knob]["noise_in_the_mean"] == pytest.approx(noise_in_the_mean(turned) / noise_in_the_mean(today))
    assert prices["privacy.epsilon = 4"]["noise_in_the_mean"] > 1.3
    assert prices["no popularity prior"]["noise_in_the_mean"] < 1
    assert prices["a population of 30,000"]["noise_in_the_mean"] == pytest.approx(0.1, rel=0.1)


def test_epsilon_one_works_with_the_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    for epsilon in ("1", "0.1"):
        outcome = running.run_tacit(capsys, "privacy", "plan", "--epsilon", epsilon, "--json")
        assert outcome.status == 0, outcome.stderr
        assert outcome.json["epsilon"] <= float(epsilon)
        assert all(claim["protected"] for claim in outcome.json["claims"] if claim["adversary"] == "server")


def test_settings_that_use_epsilon_up_are_named_with_values_that_do_and_the_knobs_are_shown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    explicit = ["--set", "privacy.popularity_noise_multiplier=3", "--set", "privacy.evaluation_noise_multiplier=5"]
    command = ["privacy", "plan", *USERS, "--epsilon", 1, *explicit]
    outcome = running.run_tacit(capsys, *command)
    assert outcome.status == 2
    (line,) = outcome.stderr.strip().splitlines()
    assert "got epsilon=1.51 for privacy.popularity_noise_multiplier=3 and privacy.evaluation_noise_multiplier=5" in line
    assert "if you changed" in outcome.stdout
    named = dict(re.findall(r"(privacy\.\w+_noise_multiplier)=([\d.]+)", line.partition("Use ")[2]))
    does = [part for name, value in named.items() for part in ("--set", f"{name}={value}")]
    assert len(does) == 4
    assert running.run_tacit(capsys, "privacy", "plan", *USERS, "--epsilon", 1, *does).status == 0
    as_json = running.run_tacit(capsys, *command, "--json")
    assert as_json.status == as_json.json["exit_status"] == 2
    turned = {row["knob"]: row for row in as_json.json["knobs"]}
    assert turned["all of these = auto"]["noise_multiplier"] > 0
    assert turned["privacy.evaluation_noise_multiplier = auto"]["why_not"] == "out of reach"


def test_a_plan_of_statistics_alone_speaks_of_no_training(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = running.run_tacit(capsys, "privacy", "plan", "--users", 3000)
    assert outcome.status == 0, outcome.stderr
    text = " ".join(outcome.stdout.split())
    assert "3,000 users as 4 clients, statistics alone, unit user" in text
    for absent in ("0 rounds", "training.local_steps", "training.sampling_rate", "the rank of its update"):
        assert absent not in text, absent
    plan = running.run_tacit(capsys, "privacy", "plan", "--users", 3000, "--json").json
    assert plan["mechanism"]["noise_multiplier"] is None
    assert sum(row["share"] for row in plan["division"]) == pytest.approx(1.0)
    assert plan["noise"]["noise_multiplier"] == min(row["noise_multiplier"] for row in plan["division"])
