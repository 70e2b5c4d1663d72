"""Two populations that differ by one user: what is sent to clients and what is released is equal, noise aside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from server.cohort import Broadcast
from simulations.engines import cohort as cohort_engine
from tests.running import flags, run_tacit, write_interactions

STATISTICS = "pairs,transitions,blending,selection"
MECHANISMS = {
    "dp-sgd": {},
    "dp-ftrl-silo": {"privacy__mechanism": "dp-ftrl-silo", "training__sampling_rate": 1.0},
    "central": {"federation__clients": 0, "privacy__expected_cohort": 50, "privacy__cohort_cap": 90},
    "dp-ftrl-central": {
        "federation__clients": 0, "privacy__mechanism": "dp-ftrl-central", "privacy__expected_cohort": 60,
    },
    "ranks": {"federation__clients": 0, "adapter__client_ranks": "2,1"},
    "adaptive": {"federation__clients": 0, "privacy__clipping": "adaptive"},
    # Which statistic is refined follows from noised values, so it is left out where requests are compared.
    "silo statistics": {"statistics__releases": STATISTICS, "federation__rounds": "auto"},
    "central statistics": {
        "federation__clients": 0, "privacy__mechanism": "central", "statistics__releases": STATISTICS,
    },
    "distributed": {"federation__clients": 0},
}  # fmt: skip
# What carries noise, or is a digest of what does; a log's head is a digest of random bytes too (tests of `log_heads.py`).
NOISED = {"head", "manifest_digest", "metrics", "selection", "state", "run_digest", "run-digest"}
# Under adaptive clipping a round's bound follows from the noised sum of the bits; the plan's own is `plan.l2_clip_norm`.
NOISED_WHERE_ADAPTIVE = NOISED | {"l2_clip_norm"}


def _without_noise(value: Any, noised: set[str]) -> Any:
    if isinstance(value, dict):
        return {
            key: _without_noise(inner, noised)
            for key, inner in value.items()
            if key not in noised and not key.endswith(".safetensors")
        }
    return [_without_noise(inner, noised) for inner in value] if isinstance(value, list) else value


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_guarantee_plans_instructions_manifest_and_release_report_are_equal_for_neighboring_populations(
    mechanism: str, tmp_path: Path, tiny_bert: str, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    instructions: list[dict[str, Any]] = []
    answers = cohort_engine.CohortGrid._answers

    def observed(grid: Any, broadcast: Broadcast) -> Any:
        configs = {name: dict(record) for name, record in broadcast.content.config_records.items()}
        instructions.append({"type": broadcast.message_type, "group": broadcast.group_id, "configs": configs})
        return answers(grid, broadcast)

    monkeypatch.setattr(cohort_engine.CohortGrid, "_answers", observed)
    seen = []
    for users in (113, 114):  # the same seed: one has all users of the other, and one more
        instructions.clear()
        data = write_interactions(tmp_path / f"{users}.csv", users=users)
        out = tmp_path / str(users)
        settings = flags(tiny_bert, privacy__min_separation=0, **MECHANISMS[mechanism])
        outcome = run_tacit(capsys, "simulate", "--data", data, "--out", out, "--public-catalog", "--quiet", *settings)
        assert outcome.status == 0, outcome.stderr
        manifest = json.loads((out / "adapter" / "manifest.json").read_text())
        release = json.loads((out / "release.json").read_text())
        assert json.loads((out / "run.json").read_text())["data"]["users"] == users
        noised = NOISED_WHERE_ADAPTIVE if mechanism == "adaptive" else NOISED
        seen.append(_without_noise({"instructions": list(instructions), "manifest": manifest, "release": release}, noised))
    assert json.dumps(seen[0], sort_keys=True, default=str) == json.dumps(seen[1], sort_keys=True, default=str)
    assert seen[0]["release"]["mechanism"]["population"] == 110
    assert seen[0]["instructions"]


@pytest.mark.parametrize(("declared", "warned"), [(113, False), (300, True), (50, True)])
def test_a_declared_population_is_in_the_release_report_and_a_wrong_one_is_said_to_the_researcher(
    declared: int, warned: bool, tmp_path: Path, tiny_bert: str, capsys: Any
) -> None:
    data = write_interactions(tmp_path / "data.csv", users=113)
    outcome = run_tacit(
        capsys, "simulate", "--data", data, "--out", tmp_path / "run", "--population", declared, "--public-catalog",
        *flags(tiny_bert),
    )  # fmt: skip
    assert outcome.status == 0, outcome.stderr
    assert json.loads((tmp_path / "run" / "release.json").read_text())["mechanism"]["population"] == declared
    assert ("more than a factor 2 away" in " ".join((outcome.stdout + outcome.stderr).split())) is warned


def test_more_clients_than_the_declared_number_may_stand_for_are_refused_without_saying_how_many(
    tmp_path: Path, tiny_bert: str, capsys: Any
) -> None:
    data = write_interactions(tmp_path / "data.csv", users=113)
    outcome = run_tacit(
        capsys, "simulate", "--data", data, "--out", tmp_path / "run", "--population", 50,
        *flags(tiny_bert, federation__clients=0),
    )  # fmt: skip
    assert outcome.status == 2 and not (tmp_path / "run").exists()
    assert "Expected at most 100 clients for a population of 50 (privacy.population), got more." in outcome.stderr
    assert "113" not in outcome.stderr


@pytest.mark.parametrize("private", [True, False])
def test_cut_offs_at_quantiles_of_all_users_times_are_refused_in_a_private_run(
    private: bool, tmp_path: Path, tiny_bert: str, capsys: Any
) -> None:
    data = write_interactions(tmp_path / "data.csv", users=113)

    def run(name: str, **changes: object) -> Any:
        settings = flags(tiny_bert, data__split="global-temporal", **changes)
        out = tmp_path / name
        return run_tacit(capsys, "simulate", "--data", data, "--out", out, "--quiet", "--public-catalog", *settings)

    epsilon = 8 if private else "inf"
    outcome = run("quantiles", privacy__epsilon=epsilon)
    assert outcome.status == (2 if private else 0), outcome.stderr
    assert ("Expected data.cut_offs in a private run" in outcome.stderr) is private
    assert run("declared", privacy__epsilon=epsilon, data__cut_offs="1500300000,1500600000").status == 0


def test_a_private_run_refuses_a_population_that_quantiles_have_shaped(tmp_path: Path, tiny_bert: str, capsys: Any) -> None:
    data = write_interactions(tmp_path / "data.csv", users=113)
    settings = flags(tiny_bert, data__split="global-temporal", federation__clients=1)
    assert run_tacit(capsys, "data", "partition", "--data", data, "--out", tmp_path / "p", *settings).status == 0
    description = json.loads((tmp_path / "p" / "population.json").read_text())
    assert description["shaped_by_all"] == ["data.split=global-temporal without data.cut_offs"]
