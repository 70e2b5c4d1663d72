"""What the recommender alone gives away, from scores that are written down here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from simulations.audits.black_box import BLACK_BOX, write_black_box
from tests.audits import statement_about
from tests.plans import plain_plan


def test_scores_that_follow_the_coins_are_told_and_noise_is_not(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    included = rng.random(500) < 0.5
    loud = write_black_box(tmp_path, statement_about(), rng.normal(size=500) + 4.0 * included, included)
    assert loud is not None and loud["area"]["low"] > 0.95 and loud["lower_bounds"]["f-dp"] > 2.0
    assert json.loads((tmp_path / BLACK_BOX).read_text("utf-8")) == loud
    quiet = write_black_box(tmp_path, statement_about(), rng.normal(size=500), included)
    assert quiet is not None and quiet["area"]["low"] < 0.5 < quiet["area"]["high"]
    assert quiet["lower_bounds"]["distribution-free"] < 0.5 and quiet["claimed"] > 7.9


def test_a_run_that_claims_nothing_against_outsiders_has_none(tmp_path: Path) -> None:
    assert write_black_box(tmp_path, statement_about(plain_plan()), np.zeros(4), np.array([True, False] * 2)) is None
    assert not (tmp_path / BLACK_BOX).exists()
