"""`tacit simulate --from`: sums add up, noise and budgets too, and the earlier run stays as it was."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import shared.randomness
from client.batch import ClientBatch
from client.ledger.accounts import account_of_user
from client.ledger.ledger import Ledger, Policy
from client.statistics.question import columns_for, question_of, statistic_for
from client.store.population import open_population, read_clients
from server import checkpoints
from server.continuing import EarlierRun
from server.reporting.records import read_release
from server.reporting.verification import verify_release
from server.statistics.statistic import Total
from shared.artifact import load_recommender, read_manifest
from shared.audit.verification import verify
from shared.errors import ConfigError, ProtocolViolation
from shared.model.statistics import Statistics
from shared.privacy.accounting import epsilon
from shared.privacy.calibration import plan_for
from shared.privacy.events import with_known_participation
from shared.protocol.messages import ReleaseInstruction
from shared.run_folder import load_catalog, load_config
from shared.wording import asked_text
from simulations.audits.audit import AUDIT, audit
from simulations.audits.twin import Twin
from simulations.simulate import simulate
from tests import running

CUT = 600
OLD_ITEMS, ITEMS, USERS, LATE = 12, 15, 24, 4
STATISTICS = "pairs,transitions,blending,selection"
USERS_AS_CLIENTS: dict[str, object] = {"federation__clients": 0, "privacy__delta": 0.001, "privacy__epsilon": 6.0,
                                       "statistics__releases": STATISTICS}  # fmt: skip


def write_data(folder: Path) -> tuple[Path, Path]:
    """A set cut in time: what was known at the cut, and everything; late users and items come after it."""
    rng = np.random.default_rng(4)
    lines = []
    for user in range(USERS):
        times = np.sort(rng.choice(1000 if user < USERS - LATE else 1000 - CUT, size=10, replace=False))
        times = times + (0 if user < USERS - LATE else CUT)
        if user < USERS - LATE:
            times[:4] = np.sort(rng.choice(CUT, size=4, replace=False))
            times = np.sort(times)
        old, new = rng.permutation(OLD_ITEMS).tolist(), OLD_ITEMS + rng.permutation(ITEMS - OLD_ITEMS)
        new = new.tolist()
        for time in times.tolist():
            item = new.pop() if time >= CUT and new and rng.random() < 0.4 else old.pop()
            lines.append((f"person-{user}", f"thing-{item:02d}", time, f"w{item} w{2 * item} w{item + 1}"))
    header = "user,item,timestamp,item_title"
    paths = []
    for name, kept in (("part", [line for line in lines if line[2] < CUT]), ("whole", lines)):
        path = folder / f"{name}.csv"
        path.write_text("\n".join([header, *(",".join(map(str, line)) for line in kept)]) + "\n", encoding="utf-8")
        paths.append(path)
    return paths[0], paths[1]


def training_of(path: Path) -> dict[str, list[str]]:
    """Each user's training items in time order, all but the last two; read by nothing of ours."""
    rows = defaultdict(list)
    for line in path.read_text().splitlines()[1:]:
        user, item, time, _ = line.split(",")
        rows[user].append((int(time), item))
    ordered = {user: [item for _, item in sorted(own)] for user, own in rows.items()}
    return {user: own[:-2] if len(own) >= 3 else own for user, own in ordered.items()}


def files_of(run: Path) -> dict[str, str]:
    """Digests of all files but the ledger's own."""
    return {
        str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(run.rglob("*"))
        if path.is_file() and not path.name.startswith("ledger.sqlite")
    }


@dataclass(frozen=True)
class Pair:
    """Two runs, the second from the first; not to be changed."""

    part: Path
    whole: Path
    first: Path
    second: Path
    before: dict[str, str]
    record: dict[str, Any]
    said: str


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_bert: str) -> Any:
    """Makes a pair of runs."""

    def pair(name: str, *more: object, **settings: object) -> Pair:
        folder = tmp_path_factory.mktemp(name)
        part, whole = write_data(folder)
        first, second = folder / "first", folder / "second"
        flags = running.flags(tiny_bert, **settings)
        running_quietly("simulate", "--data", part, *flags, "--out", first, "--quiet")
        before = files_of(first)
        said = running_quietly("simulate", "--from", first, "--data", whole, "--out", second, *more)
        return Pair(part, whole, first, second, before, json.loads((second / "run.json").read_text()), said)

    return pair


def running_quietly(*arguments: object) -> str:
    """A command in this process that has to end well; gives what it printed."""
    import contextlib
    import io
    import sys

    from simulations import cli

    out, before = io.StringIO(), sys.argv
    sys.argv = ["tacit", *(str(argument) for argument in arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            cli.run()
    except SystemExit as error:
        if error.code not in (0, None, 3):
            raise RuntimeError(out.getvalue()) from None
    finally:
        sys.argv = before
    return out.getvalue()


@pytest.fixture(scope="module")
def plain(made: Any) -> Pair:
    return made("plain", privacy__epsilon="inf", statistics__releases=STATISTICS, federation__rounds=1)


@pytest.fixture(scope="module")
def private(made: Any) -> Pair:
    """Its noise is the same each time: what an audit finds in the second run rests on the noise of both."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared.randomness, "secret_bytes", np.random.default_rng(8).bytes)
        return made("private", **USERS_AS_CLIENTS)


def test_the_counts_of_both_runs_add_up_to_what_users_did_before_and_since(plain: Pair) -> None:
    """Exact without noise: by user, 1/sqrt(m) for each of the m items of the first part and of what is new."""
    catalog = load_catalog(plain.second)
    expected = np.zeros(catalog.num_items)
    old, new = training_of(plain.part), training_of(plain.whole)
    for user, items in new.items():
        seen = old.get(user, [])
        assert items[: len(seen)] == seen
        for part in (set(seen), set(items[len(seen) :])):
            for item in part:
                expected[catalog.row_of[item]] += len(part) ** -0.5
    total = EarlierRun.open(plain.second).totals["popularity"]
    np.testing.assert_allclose(total.values, expected, atol=1e-5)
    assert total.noise_stddev == 0.0


def test_the_twin_of_a_run_that_continues_another_knows_what_was_counted_before(plain: Pair) -> None:
    """Without noise, of a statistic nothing is left when the known users and the canaries are taken away."""
    releases = Twin.of(plain.second, load_config(plain.second), canaries=20).run().sums.releases
    left = {one.purpose: one.total for one in releases if one.purpose in ("popularity", "pairs", "transitions")}
    assert len(left) == 3 and max(left.values()) < 1e-6


def test_an_audit_of_a_run_that_continues_another_holds_it_against_the_claims_over_both(
    private: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared.randomness, "secret_bytes", np.random.default_rng(3).bytes)
    folder = Path(shutil.copytree(private.second, tmp_path / "second"))
    body = audit(folder, key=Ed25519PrivateKey.generate(), canaries=20).body
    assert body["results"]["verdict"] == "passed", body["results"]["failures"]
    assert "releases of the runs before this one" in {row["attack"] for row in body["skipped"]}
    assert body["statement"]["earlier_events"] and verify(folder / AUDIT).document.results.bounds


def test_sums_and_variances_add_up_in_every_statistic(private: Pair) -> None:
    first, second = EarlierRun.open(private.first), EarlierRun.open(private.second)
    added = load_catalog(private.second).num_items - load_catalog(private.first).num_items
    assert added == ITEMS - OLD_ITEMS
    assert set(second.totals) == {"popularity", "pairs", "transitions"}
    for name, total in second.totals.items():
        values, stddev = total.values, total.noise_stddev
        own, before = Total(*second.saved.totals[name]), first.totals[name]
        grown = np.append(before.values, np.zeros(added)) if name == "popularity" else before.values
        np.testing.assert_array_equal(values, own.values + grown)
        assert stddev == pytest.approx(math.sqrt(own.noise_stddev**2 + before.noise_stddev**2), rel=1e-12)
        assert stddev > max(own.noise_stddev, before.noise_stddev) > 0
    np.testing.assert_array_equal(first.saved.head, second.saved.head)


def test_the_earlier_run_is_only_read_but_for_its_ledger(private: Pair, plain: Pair) -> None:
    for pair in (private, plain):
        assert files_of(pair.first) == pair.before
        assert not (pair.second / "population" / "ledger.sqlite").exists() or pair is plain


def test_what_is_reported_is_the_composition_of_both_runs_in_the_ledger(private: Pair) -> None:
    ledger = Ledger(private.first / "population" / "ledger.sqlite")
    binding = ledger.binding
    assert binding is not None
    assert binding.data_name == "part.csv"
    of_both, of_one = (
        epsilon(
            with_known_participation(ledger.spent(account_of_user(user))), delta=binding.delta, relation=binding.relation
        )
        for user in ("person-0", f"person-{USERS - 1}")
    )
    first = json.loads((private.first / "run.json").read_text())["privacy"]["epsilon"]
    privacy = private.record["privacy"]
    assert privacy["epsilon"] == pytest.approx(of_both, rel=1e-6)
    assert privacy["ledger"]["epsilon_known_participation"] == pytest.approx(of_both, rel=1e-6)
    assert privacy["epsilon_of_this_run"] == pytest.approx(of_one, rel=1e-6)
    assert of_one < of_both < of_one + first
    runs = {event["run"] for event in ledger.export(account_of_user(f"person-{USERS - 1}"))["events"]}
    assert runs == {EarlierRun.open(private.second).saved.run_id}
    assert ledger.number_of_owners() == USERS
    ledger.close()


def test_record_release_and_terminal_name_the_run_that_is_continued(private: Pair) -> None:
    manifest = (private.first / "adapter" / "manifest.json").read_bytes()
    digest = hashlib.sha256(manifest).hexdigest()
    claimed = json.loads(manifest)["epsilon"]
    release = json.loads((private.second / "release.json").read_text())
    assert private.record["continues"]["manifest_digest"] == release["continues"]["manifest_digest"] == digest
    assert release["continues"]["epsilon"] == claimed
    together = private.record["privacy"]["epsilon"]
    (own,) = [claim for claim in release["claims"] if claim["adversary"] == release["adversary"]]
    assert own["epsilon"] == pytest.approx(together)
    assert read_manifest(private.second)["epsilon"] == pytest.approx(together)
    assert release["epsilon_of_this_run"] == pytest.approx(private.record["privacy"]["epsilon_of_this_run"])
    assert release["spending"]["together"] == release["epsilon_of_this_run"] < release["epsilon"]
    verify_release(read_release(private.second))
    said = " ".join(private.said.split())
    assert f"Continues the model released as {digest[:12]} (1 earlier run(s))" in said
    assert "By the ledger, the account that spent most has spent epsilon" in said
    for page in ("report.html", "release.html"):
        assert digest[:12] in (private.second / page).read_text()


def test_new_items_are_ranked_and_have_factors(plain: Pair) -> None:
    recommender = load_recommender(plain.second)
    catalog = load_catalog(plain.second)
    assert catalog.num_new_items == ITEMS - OLD_ITEMS
    statistics = recommender.attached.model.statistics
    assert statistics is not None
    assert (np.abs(statistics.factors[OLD_ITEMS:]).sum(axis=1) > 0).all()
    assert np.isfinite(recommender.score([np.array([0, 13], dtype=np.int32)])).all()
    assert catalog.ids[:OLD_ITEMS] == load_catalog(plain.first).ids


def test_a_user_stays_in_the_silo_that_holds_what_the_user_spent(plain: Pair) -> None:
    homes = []
    for run in (plain.first, plain.second):
        population = open_population(run / "population")
        rows = read_clients(population.folder, np.arange(population.num_clients), ["user"])
        homes.append(dict(zip(rows.histories["user"], rows.client.tolist(), strict=True)))
    assert {user: homes[1][user] for user in homes[0]} == homes[0]
    assert len(homes[1]) == USERS


def test_training_goes_on_from_the_released_adapter(plain: Pair) -> None:
    before, after = (checkpoints.load(run, config_digest=load_config(run).digest()) for run in (plain.first, plain.second))
    assert (before.round_number, after.round_number) == (1, 1)
    assert after.continues == hashlib.sha256((plain.first / "adapter" / "manifest.json").read_bytes()).hexdigest()


def test_a_plan_beyond_what_the_limit_leaves_is_refused_with_numbers_and_a_default_fits(
    private: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = tmp_path / "first"
    shutil.copytree(private.first, first)
    path = first / "population" / "ledger.sqlite"
    ledger = Ledger(path)
    spent = epsilon(ledger.spent(account_of_user("person-0")), delta=0.001)
    limit = spent + 1.0
    ledger.set_policy(Policy(epsilon=limit, adversary="outsider"))
    ledger.close()
    arguments = ("simulate", "--from", first, "--data", private.whole, "--out", tmp_path / "second", "--quiet")
    refused = running.run_tacit(capsys, *arguments, "--epsilon", "6")
    assert refused.status == 2
    assert (
        f"Expected a run within the limit of the ledger, epsilon {asked_text(limit)} over all runs, got privacy.epsilon=6"
        in refused.stderr
    )
    assert "Use at most " in refused.stderr
    assert not (tmp_path / "second").exists()
    done = running.run_tacit(capsys, *arguments)
    assert done.status in (0, 3), done.stderr
    record = json.loads((tmp_path / "second" / "run.json").read_text())
    assert limit - 0.5 < record["privacy"]["ledger"]["epsilon_known_participation"] <= limit
    assert record["privacy"]["target_epsilon"] < 6


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        ("missing", [], "could not read its config.json"),
        ("unfinished", [], "Expected a released adapter in"),
        ("damaged", [], "as the manifest names it, got another file"),
        ("checkpoint", [], "only damaged checkpoints"),
        ("", ["--seed", "3"], "Expected run.seed=0 as in the run that is continued, got run.seed=3."),
        ("", ["--epsilon", "inf"], "Expected a private run with a ledger that spans runs, got one that is not private."),
        ("", ["--clients", "3"], "Expected federation.clients=0 as in the run that is continued, got federation.clients=3."),
        ("", ["--set", "privacy.mechanism=central"], "Expected privacy.mechanism=distributed as in the run"),
        (
            "",
            ["--clients", "0", "--set", "secure_aggregation.simulate=full"],
            "Expected secure_aggregation.simulate=sum as in the run",
        ),
        ("", ["--set", "privacy.unit=window"], "privacy.unit=window"),
        ("", ["--set", "statistics.window=3"], "Expected statistics.window=20 as in the run that is continued"),
        ("", ["--set", "model.layers=1"], "Expected model.layers=2 as in the run that is continued"),
        ("", ["--rounds", "0"], "Expected federation.rounds >= 1, because the run that is continued trained its adapter"),
        ("", ["--reproducible"], "Expected no run.reproducible in a run that continues another"),
        ("", ["--resume", "second"], "Expected --resume"),
        ("", ["--ledger", "other.sqlite"], "Expected the ledger of the run that is continued, found none of what it spent"),
        ("fewer", [], "Expected grown data with all 12 items of the run that is continued, found 1 missing."),
        ("others", [], "Expected users of the run that is continued in the grown data, found none."),
        ("ledger", [], "Expected the ledger of the run that is continued, found none of what it spent"),
        ("", ["--set", "privacy.delta=0.0001"], "Expected privacy.delta=0.001 as in the run that is continued, got"),
        ("", ["--set", "statistics.head=5"], "Expected statistics.head=12 as in the run that is continued, got"),
        ("old", [], "Expected training interactions that the run that is continued has not counted, found none."),
    ],
)
def test_a_run_that_cannot_be_continued_is_refused_and_nothing_is_written(
    private: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str, arguments: list[str], message: str
) -> None:
    first, data = tmp_path / "first", tmp_path / "part.csv"
    shutil.copytree(private.first, first)
    text = private.whole.read_text()
    if change == "missing":
        first = tmp_path / "nowhere"
    elif change == "unfinished":
        shutil.rmtree(first / "adapter")
    elif change == "damaged":
        (first / "adapter" / "prior.safetensors").write_bytes(b"x")
    elif change == "checkpoint":
        for path in first.glob("checkpoint*"):
            path.write_bytes(b"x" * 100)
    elif change == "fewer":
        text = "\n".join(line for line in text.splitlines() if ",thing-03," not in line) + "\n"
    elif change == "old":
        text = private.part.read_text()
    elif change == "others":
        text = text.replace("person-", "somebody-")
    elif change == "ledger":
        for path in (first / "population").glob("ledger.sqlite*"):
            path.unlink()
    data.write_text(text, encoding="utf-8")
    out = tmp_path / "second"
    found = running.run_tacit(capsys, "simulate", "--from", first, "--data", data, "--out", out, "--quiet", *arguments)
    assert found.status in (1, 2)
    assert message in found.stderr
    assert found.stderr.count("\n") == 1
    assert not out.exists()
    assert "person-1" not in found.stderr


def test_another_ledger_is_refused_however_the_run_to_continue_was_named(private: Pair, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "fresh.sqlite")
    ledger.set_policy(Policy(epsilon=100.0, adversary="outsider"))
    ledger.close()
    changes = {"run.continues": str(private.first), "privacy.ledger": str(tmp_path / "fresh.sqlite"), "data.population": ""}
    config = load_config(private.first).with_values({**changes, "data.path": str(private.whole), "run.out": ""})
    with pytest.raises(ConfigError, match="Expected the ledger of the run that is continued, found none of what it spent"):
        simulate(config, tmp_path / "second", quiet=True)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ({}, {"privacy.colluding_clients": 2}, "Expected privacy.colluding_clients=0 as in the run that is continued, got"),
        ({"data.public_catalog": False}, {}, "Expected data.public_catalog=False as in the run that is continued, got"),
        (
            {},
            {"federation.minimum_clients": 2},
            "Expected federation.minimum_clients=0 as in the run that is continued, got",
        ),
    ],
)
def test_a_setting_that_an_earlier_claim_rests_on_stays(
    private: Pair, before: dict[str, Any], after: dict[str, Any], message: str
) -> None:
    earlier = EarlierRun.open(private.first)
    config = load_config(private.second)
    plan = plan_for(config, USERS, USERS)
    earlier.verify_continued_by(config, plan)
    changed = replace(earlier, config=earlier.config.with_values(before))
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
        changed.verify_continued_by(config.with_values(after), plan)


def test_a_statistic_that_the_earlier_run_did_not_release_is_refused(private: Pair) -> None:
    """It would be over new interactions alone, and nothing would hold the old ones."""
    earlier, config = EarlierRun.open(private.first), load_config(private.second)
    totals = {name: total for name, total in earlier.saved.totals.items() if name != "transitions"}
    without = replace(earlier, saved=replace(earlier.saved, totals=totals))
    with pytest.raises(ConfigError, match=r"^Expected statistics that the run that is continued released, got transitions"):
        without.verify_continued_by(config, plan_for(config, USERS, USERS))


def test_only_a_run_that_continues_another_leaves_out_what_was_counted(plain: Pair) -> None:
    folder = plain.second / "population"
    assert read_clients(folder, np.arange(3)).counted is not None
    config = load_config(plain.second)
    found = []
    for continues in (str(plain.first), ""):
        own = config.with_values({"run.continues": continues})
        batch = ClientBatch.of_population(own, folder, np.arange(3))
        plan = plan_for(own, USERS, 3)
        task = ReleaseInstruction("run", plan, "popularity", 0, np.zeros(0, dtype=np.float32))
        found.append(statistic_for(task).vectors(question_of(task, batch), batch, batch.rows(columns_for(task))))
    assert (found[0].sum(axis=1) < found[1].sum(axis=1)).all()


def test_transitions_between_directions_of_another_number_are_refused(plain: Pair) -> None:
    folder, config = plain.second / "population", load_config(plain.second)
    batch, plan = ClientBatch.of_population(config, folder, np.arange(3)), plan_for(config, USERS, 3)
    state = load_recommender(plain.second).state()
    statistics = Statistics.from_vector(state.statistics, num_items=ITEMS)
    assert statistics is not None and statistics.directions.shape[1]
    for columns, fits in ((statistics.directions, True), (statistics.directions[:, 1:], False)):
        told = replace(statistics, directions=columns, transition=np.zeros((0, 0), dtype=np.float32)).to_vector()
        vector = replace(state, statistics=told).to_vector()
        task = ReleaseInstruction("run", plan, "transitions", 0, vector)
        asked, rows = question_of(task, batch), batch.rows(columns_for(task))
        if fits:
            assert statistic_for(task).vectors(asked, batch, rows).shape == (3, asked.size)
            continue
        with pytest.raises(ProtocolViolation, match=r"^Expected directions of \d+ numbers an item"):
            statistic_for(task).vectors(asked, batch, rows)


def test_an_interrupted_run_that_continues_another_is_resumed_with_the_same_sums(
    plain: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "second"
    shutil.copytree(plain.second, run)
    shutil.rmtree(run / "adapter")
    (run / "run.json").unlink()
    found = running.run_tacit(capsys, "simulate", "--resume", run, "--quiet")
    assert found.status == 0, found.stderr
    for name, total in EarlierRun.open(plain.second).totals.items():
        np.testing.assert_array_equal(EarlierRun.open(run).totals[name].values, total.values)
    # Another run in the place of the one that is continued is noticed.
    (run / "run.json").unlink()
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "run.continues": str(plain.second)}))
    found = running.run_tacit(capsys, "simulate", "--resume", run, "--quiet")
    assert found.status == 2
    assert "Expected the run that is continued as it was, found another in its place." in found.stderr


def test_a_continued_run_is_continued_and_nothing_new_adds_nothing(
    plain: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    third = tmp_path / "third"
    found = running.run_tacit(capsys, "simulate", "--from", plain.second, "--out", third, "--quiet")
    assert found.status == 0, found.stderr
    before, after = EarlierRun.open(plain.second), EarlierRun.open(third)
    for name, total in after.totals.items():
        np.testing.assert_array_equal(total.values, before.totals[name].values)
    assert after.manifest["runs_before"] == 2
    assert load_catalog(third) == load_catalog(plain.second)
