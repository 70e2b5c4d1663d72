"""Attribute inference: found where lists follow from the attribute, at the prior where they do not."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from client.store.population import open_population
from shared.artifact import load_recommender
from shared.run_folder import POPULATION, load_config
from simulations.audits import attributes
from simulations.audits.attributes import ATTRIBUTES, LENGTH, inferred, seen_of, write_attributes
from simulations.preparing import dataset_of
from tests.running import FinishedRun


def _lists(rng: np.random.Generator, labels: list[str], *, tell: float) -> NDArray[np.float64]:
    """Lists of 10 of 60 items; the first twenty are likelier for "a", the next twenty for "b"."""
    shown = np.zeros((len(labels), 60))
    for user, label in enumerate(labels):
        weights = np.ones(60)
        weights[:20] += tell * (label == "a")
        weights[20:40] += tell * (label == "b")
        shown[user, rng.choice(60, size=10, replace=False, p=weights / weights.sum())] = 1.0
    return shown


def test_an_attribute_that_decides_the_list_is_found_and_one_that_does_not_stays_at_the_prior() -> None:
    """The negative control has the same lists and labels of other users; its area leaves 0.5 once in some 1,000 times."""
    rng = np.random.default_rng(3)
    labels = ["a" if coin < 0.7 else "b" for coin in rng.random(400)]
    (found,) = inferred("kind", labels, {"list": _lists(rng, labels, tell=3.0)}, seed=0)
    assert found.values == 2 and found.users == 400 and found.prior == pytest.approx(0.7, abs=0.08)
    assert found.gain.low > 0.1 and found.area.low > 0.9
    assert found.gain.value == pytest.approx(found.accuracy.value - found.prior)
    (none,) = inferred("kind", rng.permutation(labels).tolist(), {"list": _lists(rng, labels, tell=3.0)}, seed=0)
    assert none.gain.low <= 0.02 and abs(none.area.value - 0.5) < 0.1


def test_users_without_a_value_are_left_out() -> None:
    rng = np.random.default_rng(0)
    labels: list[str | None] = ["a", "b", None] * 40
    (found,) = inferred("kind", labels, {"list": rng.random((120, 5))}, seed=0)
    assert found.users == 80 and found.prior <= 0.6


def test_lists_are_those_of_the_released_recommender_and_hold_nothing_of_the_history(finished_run: FinishedRun) -> None:
    recommender = load_recommender(finished_run.folder)
    histories = [np.array([0, 3], dtype=np.int32), np.array([5], dtype=np.int32)]
    shown, near, held = seen_of(recommender, histories).values()
    assert (shown > 0).sum(axis=1).tolist() == [LENGTH, LENGTH] and near.shape == shown.shape
    assert not shown[held > 0].any() and np.flatnonzero(held[0]).tolist() == [0, 3]
    best = recommender.score(histories)[1]
    best[5] = -np.inf
    assert shown[1].argmax() == best.argmax()


def test_guarantee_what_is_written_of_a_run_is_stamped_and_names_no_user_and_no_value(
    finished_run: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = pl.DataFrame(
        {
            "user": [f"person-{one}" for one in range(30)],
            "kind": ["scarlet", "teal"] * 15,
            "years": [str(20 + one) for one in range(30)],
            "town": ["somewhere"] * 30,
        }
    )
    monkeypatch.setattr(
        attributes, "dataset_of", lambda config: dataclasses.replace(dataset_of(config), user_attributes=table)
    )
    monkeypatch.setattr(attributes, "load_recommender", lambda _: load_recommender(finished_run.folder))
    population = open_population(finished_run.folder / POPULATION)
    held = write_attributes(tmp_path, load_config(finished_run.folder), population)
    text = (tmp_path / ATTRIBUTES).read_text("utf-8")
    assert json.loads(text) == held and held["stamp"].startswith("NOT PRIVATE")
    assert [row["attribute"] for row in held["rows"]] == ["kind"] * 3  # bands of years have too few users each
    assert set(held["skipped"]) == {"years", "town"}
    assert not any(word in text for word in ("person-", "scarlet", "somewhere"))


def test_a_run_on_data_without_attributes_says_why_it_was_skipped(finished_run: FinishedRun, tmp_path: Path) -> None:
    population = open_population(finished_run.folder / POPULATION)
    held = write_attributes(tmp_path, load_config(finished_run.folder), population)
    assert held["rows"] == [] and held["skipped"] == {"all": "The data have no user attributes."}
