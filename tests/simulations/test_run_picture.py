"""The picture of a run: drawn from what it is given, whatever is missing in it."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from simulations.run_picture import write_run_picture


def test_a_picture_needs_no_intervals_no_rounds_and_no_baselines(tmp_path: Path) -> None:
    some = {"mean": 0.2, "low": 0.1, "high": 0.3}
    without = {"mean": 0.1, "low": None, "high": None}
    rounds = pl.DataFrame({"round_number": [1, 2], "validation.ndcg@5": [0.1, 0.2]})
    missing = {"mean": None, "low": None, "high": None}
    models = {"this run": some, "$5 baseline": without, "another": missing}
    write_run_picture(tmp_path / "all.png", "a $ set", {name: {"ndcg@5": one} for name, one in models.items()}, rounds)
    write_run_picture(tmp_path / "few.png", "a set", {"this run": {"ndcg@5": without}}, pl.DataFrame())
    for name in ("all.png", "few.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
