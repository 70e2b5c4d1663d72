"""The smoke test of every recommender: two blocks of users and items; the withheld item must rank first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from client.app import app as client_app
from server.app import server_app
from shared.artifact import load_recommender
from shared.config import RunConfig
from shared.data.catalog import ItemCatalog
from shared.model.recommender import Recommender, build
from shared.run_folder import POPULATION
from tests import running

SIZE = 8  # users and items of a block


@pytest.fixture
def board() -> pl.DataFrame:
    """User i of a block has every item of that block but the i-th, in an order of its own."""
    rng = np.random.default_rng(3)
    train, withheld = [], []
    for user in range(2 * SIZE):
        block = np.arange(SIZE) + SIZE * (user // SIZE)
        train.append(rng.permutation(block[block != user]).tolist())
        withheld.append([user])
    kept = pl.List(pl.Int32)
    return pl.DataFrame(
        {
            "user": [f"u{user:02}" for user in range(2 * SIZE)],
            "train": train,
            "validation": [[]] * (2 * SIZE),
            "test": withheld,
        },
        schema={"user": pl.String, "train": kept, "validation": kept, "test": kept},
    )


def _ranks(recommender: Recommender, board: pl.DataFrame) -> list[int]:
    """The place of each user's withheld item among all that the user does not have."""
    ranks = []
    for history, (withheld,) in zip(board["train"], board["test"], strict=True):
        (scores,) = recommender.score([history.to_numpy()])
        others = np.setdiff1d(np.arange(2 * SIZE), [*history, withheld])
        ranks.append(1 + int((scores[others] >= scores[withheld]).sum()))
    return ranks


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_withheld_item_ranks_first(seed: int, tmp_path: Path, tiny_config: RunConfig, board: pl.DataFrame) -> None:
    # Texts that say nothing about the blocks, and no untrained signal that could help.
    texts = tuple(f"w{(7 * item) % (2 * SIZE)}" for item in range(2 * SIZE))
    catalog = ItemCatalog(ids=tuple(f"i{item:02}" for item in range(2 * SIZE)), texts=texts)
    settings = {
        "privacy.epsilon": float("inf"), "privacy.delta": 0.0, "adapter.kind": "lora", "adapter.rank": 0,
        "adapter.input_rank": 0, "adapter.output_rank": 0, "adapter.item_rank": 8, "adapter.head_rank": 4,
        "model.text_similarity_weight": 0.0, "model.max_history_length": 10, "training.optimizer": "adam",
        "training.learning_rate": 0.01, "training.local_steps": 8, "training.sampling_rate": 0.9,
        # Enough to learn the blocks, too little to learn by heart what each user has not.
        "federation.rounds": 8, "federation.clients": 2, "run.seed": seed,
    }  # fmt: skip
    config = running.population(tmp_path, tiny_config, board, catalog, **settings)
    untrained = _ranks(build(config, catalog), board)
    assert sum(rank > 1 for rank in untrained) > SIZE

    running.run_in_process(server_app(), client_app, num_nodes=2, run_config=config.to_flat())
    (tmp_path / "population").rename(tmp_path / "run" / POPULATION)
    assert _ranks(load_recommender(tmp_path / "run"), board) == [1] * (2 * SIZE)
