"""The run record: what it says, that its numbers follow from sums and ledger, and that it is plain JSON."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
from dp_accounting.rdp import RdpAccountant

from client.node.rules import installed_code
from shared.versions import code_digest
from simulations.record import STAMP_OF_A_PRIVATE_RUN, STAMP_OF_ANY_OTHER_RUN, read_record
from simulations.simulate import simulate
from tests import running
from tests.running import ROOT, FinishedRun, settings

SECTIONS = {
    "schema", "name", "created", "status", "stopped", "stamp", "config", "config_digest", "versions", "machine", "data",
    "model", "rounds", "selection", "metrics", "distribution", "baselines", "cold_items", "privacy", "timings", "artifacts",
    "continues", "secure_sums",
}  # fmt: skip


def test_record_on_disk_is_what_simulate_returned(finished_run: FinishedRun) -> None:
    assert read_record(finished_run.folder) == json.loads(json.dumps(finished_run.record))
    assert set(finished_run.record) == SECTIONS
    assert finished_run.record["status"] == "complete"


def test_record_says_on_its_face_that_it_is_not_private(finished_run: FinishedRun) -> None:
    stamps = {True: STAMP_OF_A_PRIVATE_RUN, False: STAMP_OF_ANY_OTHER_RUN}
    assert finished_run.record["stamp"] == stamps[finished_run.record["privacy"]["is_private"]]
    assert all(stamp.startswith("NOT PRIVATE") for stamp in stamps.values())
    assert "NOT PRIVATE" in (finished_run.folder / "report.html").read_text(encoding="utf-8")


def test_record_holds_no_number_that_json_lacks(finished_run: FinishedRun) -> None:
    text = (finished_run.folder / "run.json").read_text(encoding="utf-8")

    found: list[str] = []
    json.loads(text, parse_constant=found.append)
    assert found == []


def test_record_summarizes_the_data(finished_run: FinishedRun) -> None:
    lines = finished_run.data.read_text(encoding="utf-8").splitlines()[1:]
    data = finished_run.record["data"]
    assert data["users"] == len({line.split(",")[0] for line in lines}) == 30
    assert data["items"] == len({line.split(",")[1] for line in lines})
    assert data["interactions"] == len(lines)
    assert data["density"] == pytest.approx(len(lines) / (data["users"] * data["items"]))
    assert (data["clients"], data["split"]) == (3, "leave-last-out")


def test_record_has_every_round_with_epsilon_growing_to_the_target(finished_run: FinishedRun) -> None:
    rounds = finished_run.record["rounds"]
    assert [row["round_number"] for row in rounds] == [1, 2]
    assert all((row["clients_asked"], row["clients_answered"]) == (3, 3) for row in rounds)
    assert all(set(row["validation"]) == {"hr@5", "ndcg@5"} for row in rounds)
    assert rounds[0]["epsilon_spent"] < rounds[1]["epsilon_spent"] <= 8.0
    assert all({"seconds", "training_seconds"} <= set(row) for row in rounds)


def test_record_metrics_come_with_intervals_around_the_mean(finished_run: FinishedRun) -> None:
    for target in ("validation", "test"):
        for name in ("hr@5", "ndcg@5"):
            found = finished_run.record["metrics"][target][name]
            assert 0 <= found["low"] <= found["mean"] <= found["high"] <= 1
        counts = finished_run.record["distribution"][target]["counts"]
        assert sum(counts) == 30
    # The last round validated the state that was released.
    last = finished_run.record["rounds"][-1]["validation"]["ndcg@5"]
    assert finished_run.record["metrics"]["validation"]["ndcg@5"]["mean"] == pytest.approx(last)


def test_record_compares_with_each_baseline(finished_run: FinishedRun) -> None:
    rows = finished_run.record["baselines"]
    assert [row["key"] for row in rows] == ["popularity", "text_similarity"]
    own = finished_run.record["metrics"]["test"]["ndcg@5"]["mean"]
    for row in rows:
        difference = row["difference"]["ndcg@5"]
        assert difference["mean"] == pytest.approx(own - row["metrics"]["test"]["ndcg@5"]["mean"])
        assert 0 <= difference["p_value"] <= 1


def test_record_claims_the_epsilon_of_the_events_in_the_ledger(finished_run: FinishedRun) -> None:
    privacy = finished_run.record["privacy"]
    assert (privacy["is_private"], privacy["why_not"]) == (True, None)
    assert privacy["unit"] == "user"
    assert privacy["neighboring_relation"] == "add-or-remove-one"
    assert privacy["delta"] == 1e-3  # 1 / (10 x 30), rounded down
    assert 7.9 < privacy["epsilon"] <= 8.0
    mechanism = privacy["mechanism"]
    accountant = RdpAccountant(orders=[1 + step / 4 for step in range(1, 400)])
    released = {one["name"]: one["noise_multiplier"] for one in privacy["releases"]}
    accountant.compose(GaussianDpEvent(released["popularity"]))
    sampled = PoissonSampledDpEvent(mechanism["sampling_rate"], GaussianDpEvent(mechanism["noise_multiplier"]))
    steps = mechanism["rounds"] * mechanism["steps_per_round"]
    accountant.compose(sampled, steps)
    accountant.compose(GaussianDpEvent(released["metrics"]))
    # Renyi accounting is valid and looser; the quoted bound must lie below it, and not far below.
    looser = accountant.get_epsilon(privacy["delta"])
    assert 0.6 * looser < privacy["epsilon"] <= looser
    assert steps == 4
    covered = {claim["adversary"]: claim["protected"] for claim in privacy["claims"]}
    assert covered["server"] is True
    assert covered["own-device"] is False


def test_record_of_a_run_without_privacy_claims_nothing(tmp_path: Path, tiny_bert: str) -> None:
    data = running.write_interactions(tmp_path / "interactions.csv")
    record = simulate(settings(data, tiny_bert, privacy__epsilon="inf"), tmp_path / "run", quiet=True)
    privacy = record["privacy"]
    assert privacy["is_private"] is False
    assert privacy["epsilon"] is None
    assert privacy["why_not"].startswith("privacy is off (epsilon = inf)")
    assert not any(claim["protected"] for claim in privacy["claims"])
    assert all(row["epsilon_spent"] is None for row in record["rounds"])
    assert record["config"]["privacy"]["epsilon"] is None
    assert not (tmp_path / "run" / "population" / "ledger.sqlite").exists()


def test_record_of_a_reproducible_run_says_that_it_is_not_private(tmp_path: Path, tiny_bert: str) -> None:
    data = running.write_interactions(tmp_path / "interactions.csv")
    record = simulate(settings(data, tiny_bert, run__reproducible="true"), tmp_path / "run", quiet=True)
    privacy = record["privacy"]
    assert (privacy["is_private"], privacy["epsilon"]) == (False, None)
    assert privacy["why_not"].startswith("not private: noise and sampling are derived from the seed")
    assert not any(claim["protected"] for claim in privacy["claims"])
    assert all(claim["statement"].startswith("Not private: no bound is claimed") for claim in privacy["claims"][:4])
    assert record["stamp"] == STAMP_OF_ANY_OTHER_RUN


def test_record_counts_what_was_repaired(tmp_path: Path, tiny_bert: str) -> None:
    data = running.write_interactions(tmp_path / "interactions.csv")
    lines = data.read_text(encoding="utf-8").splitlines()
    short = "newcomer,thing-1,1500000000,w1 w2 w2"
    data.write_text("\n".join([*lines, lines[1], lines[1], short]) + "\n", encoding="utf-8")
    record = simulate(settings(data, tiny_bert, federation__rounds=1), tmp_path / "run", quiet=True)
    repairs = record["data"]["repairs"]
    assert repairs["exact duplicates dropped"] == 2
    assert 1 in [count for name, count in repairs.items() if "short" in name]
    assert record["data"]["users"] == 31


def test_the_digest_of_the_code_is_that_of_every_file_of_the_four_packages() -> None:
    lines = []
    for package in ("client", "server", "shared", "simulations"):
        for folder, _, names in os.walk(ROOT / package):
            files = [Path(folder) / name for name in names if name.endswith(".py")]
            lines += [(file.relative_to(ROOT), hashlib.sha256(file.read_bytes()).digest()) for file in files]
    content = b"".join(str(file).encode() + b"\0" + digest for file, digest in sorted(lines))
    assert code_digest() == hashlib.sha256(content).hexdigest()
    assert len({code_digest(), installed_code(), code_digest("shared")}) == 3
