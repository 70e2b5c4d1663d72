"""Membership inference: the ratio against exact densities, the score against one history at a time, a run that leaks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy import stats
from scipy.special import logsumexp

import shared.randomness
from client.store.population import open_population
from shared.artifact import load_recommender
from shared.audit.membership import area
from shared.errors import ConfigError
from simulations.audits.membership_inference import MEMBERSHIP, likelihood_ratios, log_likelihoods, write_membership
from tests import running
from tests.audits import statement_about
from tests.running import FinishedRun


def test_the_ratio_removes_what_makes_histories_differ_and_tells_nothing_where_copies_do_not_depend_on_users() -> None:
    """500 users whose own level varies ten times as much as a copy moves it: no reference sees 0.54, the truth is 0.76."""
    rng = np.random.default_rng(0)
    level, coins = rng.normal(scale=10.0, size=500), rng.random(500) < 0.5
    half = rng.random((4, 500)) < 0.5
    shadows = np.concatenate([np.stack([one, ~one]) for one in half])
    for gap, low, high in ((1.0, 0.68, 0.82), (0.0, 0.42, 0.58)):
        scores = level + gap * coins + rng.normal(size=500)
        seen = level + gap * shadows + rng.normal(size=shadows.shape)
        ratios = likelihood_ratios(scores, seen, shadows)
        assert low < area(ratios[coins], ratios[~coins]).value < high
        assert abs(area(scores[coins], scores[~coins]).value - 0.5) < 0.12


def test_the_ratio_is_that_of_two_normal_densities() -> None:
    included = np.array([[True, False, True], [False, True, False]])
    shadows = np.array([[3.0, 0.0, 5.0], [1.0, 4.0, 1.0]])
    inside, outside, gap = np.array([3.0, 4.0, 5.0]), np.array([1.0, 0.0, 1.0]), 10.0 / 3.0
    middle = (inside + outside) / 2
    left = np.concatenate([inside - middle - gap / 2, outside - middle + gap / 2])
    spread = np.sqrt((left**2).sum() / 3)
    scores = np.array([2.0, 1.0, 4.0])
    high, low = stats.norm(middle + gap / 2, spread), stats.norm(middle - gap / 2, spread)
    assert likelihood_ratios(scores, shadows, included) == pytest.approx(high.logpdf(scores) - low.logpdf(scores))


def test_a_users_score_is_the_mean_log_probability_of_each_item_after_those_before_it(finished_run: FinishedRun) -> None:
    recommender = load_recommender(finished_run.folder)
    histories = [[0, 3, 7, 2], [5, 1]]
    expected = []
    for items in histories:
        prefixes = [np.array(items[:end], dtype=np.int32) for end in range(1, len(items))]
        scores = recommender.score(prefixes).astype(np.float64)
        after = np.array(items[1:])
        expected.append((scores[np.arange(len(after)), after] - logsumexp(scores, axis=1)).mean())
    found = log_likelihoods(recommender, pl.Series(histories, dtype=pl.List(pl.Int32)))
    assert found == pytest.approx(np.array(expected), abs=1e-4)


def test_an_odd_number_of_shadow_runs_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    outcome = running.run_tacit(capsys, "audit", "run", tmp_path, "--shadow-runs", 3, "--home", tmp_path / "key")
    assert outcome.status == 2 and "Expected an even number of shadow runs" in " ".join(outcome.stderr.split())


def test_guarantee_membership_of_real_users_is_a_record_that_is_stamped_not_private_and_charges_nobody(
    tmp_path: Path, tiny_bert: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exact pairs tell members from others; no user is named."""
    monkeypatch.setattr(shared.randomness, "secret_bytes", np.random.default_rng(4).bytes)
    config = running.exact_pairs(tmp_path, tiny_bert)
    population = open_population(tmp_path / "population")
    held = write_membership(tmp_path, config, population, statement_about(), shadow_runs=2)
    text = (tmp_path / MEMBERSHIP).read_text("utf-8")
    assert json.loads(text) == held and held["stamp"].startswith("NOT PRIVATE") and "person-" not in text
    assert not population.ledger_file.exists()
    plain, ratio = held["attacks"]
    assert plain["members"] + plain["others"] == held["users"] == 150
    assert plain["found"] == {"0.01": None, "0.001": None}
    assert ratio["area"]["low"] > 0.5 and ratio["area"]["value"] > plain["area"]["value"]
    with pytest.raises(ConfigError, match="Expected an even number of shadow runs, got shadow_runs=1"):
        write_membership(tmp_path, config, population, statement_about(), shadow_runs=1)
