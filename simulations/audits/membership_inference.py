"""Membership inference on users: can a recommender be asked whether somebody's history was used?

A copy of the run leaves out each user by a fair coin. The users that are in are members, the others are not, and the
adversary has the copy's recommender and a user's whole training history. It scores the user by how likely the recommender
finds each item after those before it. Without a reference that says as much about the history as about the copy. With
shadow runs, copies with coins of the adversary's own, the score is a likelihood ratio: how much likelier the user's value
is among copies that had the user than among those that had not.

The copies were made from real users under noise of their own, in nobody's ledger: a research record, stamped NOT PRIVATE,
and no part of the signed audit.

Source:
    Carlini et al. 2022, "Membership Inference Attacks From First Principles": the likelihood ratio, here with one gap and
    one variance for all users, which is what few shadow runs can tell; each user is in half of them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from client.store.population import Population
from server.observer import Unobserved
from shared.audit.judgment import claimed_against, views_of
from shared.audit.membership import area, members_found
from shared.config import RunConfig
from shared.data.sequences import RaggedHistories
from shared.errors import ConfigError
from shared.files import write_json
from shared.model.recommender import Recommender, resident
from shared.model.sequence_recommender import user_losses
from shared.model.state import RecommenderState
from shared.privacy.statement import Statement
from shared.randomness import derive, replayable_source, secret_source
from simulations.audits.twin import copied, in_the_open
from simulations.engines.cohort import node_ids_of, play
from simulations.engines.held_out import HeldOutGrid, Without, WithoutUsers

Floats = NDArray[np.float64]
Coins = NDArray[np.bool_]

MEMBERSHIP: Final = "audit-membership.json"
STAMP: Final = "NOT PRIVATE: measured on copies of the run whose releases are in nobody's ledger. Do not publish."
FALSE_ALARMS: Final = (0.01, 0.001)
# Scores that are held at once: 64 MB.
_MOST_NUMBERS = 16_000_000
# Members, and others, that anything is said about.
FEWEST: Final = 10


def write_membership(
    run_dir: Path, config: RunConfig, population: Population, statement: Statement, *, shadow_runs: int = 0
) -> dict[str, Any]:
    """Runs the copies, attacks one of them, and writes what came of it.

    Args:
        run_dir: The run's folder. (private)
        config: Of the run.
        population: Its clients. (private)
        statement: What is claimed. (public)
        shadow_runs: Copies of the adversary's own, an even number: each second one has the users that the one before it has
            not.

    Raises:
        ConfigError: If the number is odd.
    """
    check_shadow_runs(shadow_runs)
    rows = population.rows(np.arange(population.num_clients), ["user", "train"]).histories
    people = rows.filter(pl.col("train").list.len() > 1).unique("user", keep="first", maintain_order=True)

    def scored(own: Coins) -> Floats:
        without = partial(WithoutUsers, left_out=people["user"].filter(pl.Series(~own)))
        return log_likelihoods(copys_recommender(config, population, without), people["train"])

    held: dict[str, Any] = {
        "stamp": STAMP,
        "users": len(people),
        "shadow_runs": shadow_runs,
        **attacked(
            scored,
            config,
            statement,
            coins="members",
            candidates=len(people),
            shadow_runs=shadow_runs,
            too_few=f"Fewer than {FEWEST} users would be members, or not.",
        ),
    }
    write_json(run_dir / MEMBERSHIP, held)
    return held


def attacked(
    scored: Callable[[Coins], Floats],
    config: RunConfig,
    statement: Statement,
    *,
    coins: str,
    candidates: int,
    shadow_runs: int,
    too_few: str,
) -> dict[str, Any]:
    """Attacks one copy, without a reference and, where there are shadow runs, by a likelihood ratio.

    Args:
        scored: Runs a copy with these candidates in it, and gives a score of each.
        config: Of the run.
        statement: What is claimed. (public)
        coins: What the coins are of; who is in the copy that is attacked is thrown here. (private)
        candidates: How many may be in it.
        shadow_runs: An even number.
        too_few: Said where fewer than FEWEST are in, or out.

    Returns:
        The rates of each attack, and the epsilon that is claimed; or why nothing was attacked.
    """
    seed = config.run.seed
    source = replayable_source(seed, coins) if config.run.reproducible else secret_source()
    members = source.bernoulli(candidates, probability=0.5)
    if min(members.sum(), (~members).sum()) < FEWEST:
        return {"attacks": [], "skipped": too_few}
    scores = scored(members)
    found = {"log likelihood, no reference": scores}
    if shadow_runs:
        shadows = np.concatenate([_half_and_other_half(seed, candidates, pair) for pair in range(shadow_runs // 2)])
        seen = np.stack([scored(own) for own in shadows])
        found[f"likelihood ratio, {shadow_runs} shadow runs"] = likelihood_ratios(scores, seen, shadows)
    claimed = (
        {"claimed": claimed_against(statement, ("outsider",))} if "outsider" in views_of(statement).get("sums", ()) else {}
    )
    return {"attacks": [_rates(name, values, members) for name, values in found.items()], **claimed}


def check_shadow_runs(number: int) -> None:
    """Refuses an odd number of shadow runs.

    Raises:
        ConfigError: If it is odd or negative.
    """
    if number < 0 or number % 2:
        raise ConfigError(
            f"Expected an even number of shadow runs, got shadow_runs={number}. Use 0, 2 or 4: each user is in half of them."
        )


def likelihood_ratios(scores: Floats, shadows: Floats, included: Coins) -> Floats:
    """How much likelier each user's score is among runs that had the user than among those that had not, as a logarithm.

    Args:
        scores: (U,) of the recommender that is attacked.
        shadows: (N, U) of shadow runs, N even.
        included: (N, U), each user in half of them.

    Returns:
        (U,): normal distributions around each user's own middle, with the gap and the variance of all users together.
    """
    runs, users = shadows.shape
    inside = np.where(included, shadows, 0.0).sum(axis=0) / (runs / 2)
    outside = np.where(included, 0.0, shadows).sum(axis=0) / (runs / 2)
    gap, middle = float((inside - outside).mean()), (inside + outside) / 2.0
    around = shadows - middle - np.where(included, gap, -gap) / 2.0
    variance = float((around**2).sum()) / (users * max(runs - 1, 1))
    return np.asarray(gap * (scores - middle) / max(variance, 1e-300))


def log_likelihoods(recommender: Recommender, histories: pl.Series) -> Floats:
    """How likely a recommender finds each user's items after those before them: the mean log probability, (U,) in nats.

    Args:
        recommender: Whose state is loaded.
        histories: U lists of at least two catalog rows in time order. (private)
    """
    model, longest = recommender.attached.model, recommender.attached.model.config.max_history_length
    windows = RaggedHistories.of(histories).last(longest + 1)
    at_once = max(1, _MOST_NUMBERS // ((longest + 1) * recommender.num_items))
    found = []
    for start in range(0, len(windows), at_once):
        padded = windows.take(np.arange(start, min(start + at_once, len(windows)))).padded(longest + 1)
        items = torch.from_numpy(np.maximum(padded.items, 0)).to(recommender.device)
        mask = torch.from_numpy(padded.mask).to(recommender.device)[:, 1:]
        inputs, targets = items[:, :-1], items[:, 1:]
        with torch.no_grad():
            if recommender.attached.adds_nothing:  # whatever the transformer says counts nothing
                nothing = torch.zeros((*inputs.shape, model.item_embedding.embedding_dim), device=recommender.device)
                scores = model.scores_after(nothing, inputs)
            else:
                scores = recommender.scores(inputs, mask, recurring=np.zeros(len(inputs), dtype=np.bool_))
            found.append(-user_losses(scores.float(), targets, mask).double().cpu().numpy())
    return np.concatenate(found)


class _Kept(Unobserved):
    """Keeps the state that a copy would release."""

    state: RecommenderState | None = None

    def released(self, state: RecommenderState, round_number: int) -> None:
        """Takes it."""
        self.state = state


def copys_recommender(config: RunConfig, population: Population, without: Without) -> Recommender:
    """Runs a copy of the run on a part of its data, and loads what it would release.

    Raises:
        ConfigError: If it releases nothing.
    """
    from server.app import server_app

    kept = _Kept()
    with tempfile.TemporaryDirectory(prefix="tacit-audit-") as folder:
        own = copied(config, population, Path(folder))
        grid = HeldOutGrid(
            num_nodes=population.num_clients,
            run_config=own.to_flat(),
            node_ids=node_ids_of(own.data.population) if own.mechanism.clients_take_turns else None,
            without=without,
            ledger=Path(own.privacy.ledger),
        )
        play(server_app(kept, sums_of=in_the_open), grid)
    recommender = resident(config, population.catalog)
    if kept.state is None:
        raise ConfigError("Expected the copy of the run to release a recommender, got none. Audit a run that finishes.")
    recommender.load_state(kept.state)
    return recommender


def _half_and_other_half(seed: int, users: int, pair: int) -> Coins:
    coins = derive(seed, "shadow runs", pair).random(users) < 0.5
    return np.stack([coins, ~coins])


def _rates(name: str, scores: Floats, members: Coins) -> dict[str, Any]:
    inside, outside = scores[members], scores[~members]
    found = {str(rate): members_found(inside, outside, false_alarms=rate) for rate in FALSE_ALARMS}
    return {
        "attack": name,
        "members": len(inside),
        "others": len(outside),
        "area": vars(area(inside, outside)),
        "found": {rate: None if share is None else vars(share) for rate, share in found.items()},
    }
