"""Reconstruction: which items a made-up user's update of the adapter gives away, alone, in sums, and under the run's noise.

Updates are made by the clients' own training, and bounded, noised and encoded by their own code. Two attacks read them.

The span check needs no training: the gradient of a linear layer is a sum over positions of two vectors' product. So the
rows of an update of `lora_A` before the transformer lie in the span of the embeddings of the items that were read, and the
columns of an update of `lora_B` behind it in the span of the texts of the items that came next, less what was expected.
That holds for a plain update by gradient steps, however many, of one user with no more positions than the rank.

The other attack is learned from updates of the adversary's own made-up users: one direction in which an item's part of an
update shows that it was used. An item's part is its row of the item head, or its text's product with the factor. It is for
the item head, for sums and for noise.

No real user takes part, and no statistic of the run. What never lives here: what noise there is (`shared/privacy/plan.py`),
and reconstruction from statistics (`reconstruction.py`).

Source:
    Petrov et al. 2024, "DAGER: Exact Gradient Inversion for Large Language Models" (the span check); Fisher 1936 (the
    direction); Zhu, Liu and Han 2019, "Deep Leakage from Gradients" (that gradients tell).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from client.contribution import clipped_updates, encoded
from client.training.dp_sgd import TrainingTask, train
from client.training.negatives import PublicNegatives
from server.noise import ServerNoise
from shared.audit.document import Reconstruction
from shared.config import RunConfig
from shared.model.recommender import Recommender
from shared.model.state import RecommenderState
from shared.privacy.mechanism import Mechanism
from shared.privacy.plan import PrivacyPlan
from shared.randomness import derive, secret_bytes, secret_source
from shared.secagg.encoding import RingEncoding
from shared.secagg.masks import add_mask
from simulations.audits.reconstruction import found_again

Floats = NDArray[np.float64]
Updates = NDArray[np.float32]

# Made-up users that are attacked, those that the adversary learns from, and interactions of each.
USERS, LEARNED_FROM, ITEMS = 60, 60, 20
SUMS = (10, 60)
# Items whose vectors are held and multiplied at once: 50 MB at a rank of 64.
MOST_ITEMS = 100_000
# Singular values below this share of the largest are float32 rounding.
_ROUNDING = 1e-5
# Far below float32's rounding of a step, and yet noise, so that a silo's steps are bounded as they are in the run.
_NO_NOISE = 1e-12
_NAMES = {
    "item_head": "rows of the item head",
    "output_projection": "lora_B behind the transformer",
    "input_projection": "lora_A before the transformer",
}


@dataclass(frozen=True, eq=False)
class Part:
    """The part of an update in which items show.

    Attributes:
        module: Which.
        start, shape: Where its factor lies in the flat vector.
        table: (I, width) vectors of the items that the factor's long side is made of; None where it has a row an item.
        inputs: Whether it shows what was read, rather than what came next.
    """

    module: str
    start: int
    shape: tuple[int, int]
    table: NDArray[np.float32] | None
    inputs: bool

    @property
    def rank(self) -> int:
        """Of the module."""
        return min(self.shape)

    def factor(self, update: NDArray[np.floating]) -> Floats:
        """(long side, r), or (I, r)."""
        rows, columns = self.shape
        found = np.asarray(update[self.start : self.start + rows * columns], dtype=np.float64).reshape(rows, columns)
        return found.T if self.inputs else found

    def of_items(self, update: NDArray[np.floating]) -> Floats:
        """What an update holds for each item, (I, r)."""
        found = self.factor(update)
        return found if self.table is None else np.asarray(self.table @ found, dtype=np.float64)

    def wanted(self, history: Sequence[int]) -> set[int]:
        """The items that this part can show: those that were read, or those that came next."""
        return set(history[:-1] if self.inputs else history[1:])


def reconstruct_from_updates(config: RunConfig, plan: PrivacyPlan, recommender: Recommender) -> tuple[Reconstruction, ...]:
    """Attacks updates of made-up users.

    Args:
        config: Of the run; its seed says which items the users have, noise is fresh and secret. (public)
        plan: Of the run. (public)
        recommender: Of the run's catalog; its state is overwritten.

    Returns:
        One row a setting, under correlated noise the plain ones alone; none where `why_not` says why.
    """
    length = min(ITEMS, recommender.attached.model.config.max_history_length + 1)
    if why_not(plan, recommender):
        return ()
    made, parts = _Made(config, plan, recommender, length), parts_of(recommender)
    return (*(_spanned(made, part) for part in parts if part.table is not None), *_learned(made, parts[0], plan))


def why_not(plan: PrivacyPlan, recommender: Recommender) -> str:
    """Why updates of a run are not attacked; empty where they are."""
    if not plan.rounds:
        return "The run trains nothing: it releases statistics alone."
    if not parts_of(recommender):
        return "In what the run trains no item shows by itself: there is no item head and no projection."
    if not 2 * ITEMS <= recommender.num_items <= MOST_ITEMS:
        return f"It is for catalogs of {2 * ITEMS} to {MOST_ITEMS} items."
    return ""


def parts_of(recommender: Recommender) -> list[Part]:
    """Where items show in an update, the item head first."""
    model = recommender.attached.model
    pairs = {pair.module: pair for pair in recommender.attached.pairs}
    found = []
    head, output, inputs = (pairs.get(name) for name in _NAMES)
    if head is not None and head.b is not None:
        found.append(Part(head.module, head.b, (head.out_features, head.rank), None, inputs=False))
    if output is not None and output.b is not None:
        table = _table(model.content)
        found.append(Part(output.module, output.b, (output.out_features, output.rank), table, inputs=False))
    if inputs is not None and inputs.a is not None:
        table = _table(model.item_embedding.weight)
        found.append(Part(inputs.module, inputs.a, (inputs.rank, inputs.in_features), table, inputs=True))
    return found


def span_scores(part: Part, update: NDArray[np.floating]) -> Floats:
    """How much of each item's vector lies in the span of an update, (I,), in [0, 1]."""
    if part.table is None:
        raise ValueError("an item head has no vectors")
    left, sizes, _ = np.linalg.svd(part.factor(update), full_matrices=False)
    basis = left[:, sizes > _ROUNDING * sizes[0]] if sizes[0] > 0.0 else left[:, :0]
    norms = np.maximum(np.linalg.norm(part.table, axis=1), 1e-12)
    return np.asarray(np.linalg.norm(part.table @ basis, axis=1) / norms)


def learned_direction(part: Part, updates: Updates, histories: Sequence[Sequence[int]]) -> Floats:
    """The direction (r,) in which an item's part of an update shows best that the item was used.

    Args:
        part: Where items show.
        updates: (n, d) of users that the adversary made up.
        histories: Theirs.
    """
    used, others, within = [], [], np.zeros((part.rank, part.rank))
    for update, history in zip(updates, histories, strict=True):
        rows = part.of_items(update)
        wanted = np.zeros(len(rows), dtype=np.bool_)
        wanted[list(part.wanted(history))] = True
        used.append(rows[wanted].mean(axis=0))
        others.append(rows[~wanted].mean(axis=0))
        within += np.atleast_2d(np.cov(rows[~wanted], rowvar=False))
    ridge = np.eye(part.rank) * float(np.trace(within)) / part.rank
    return np.asarray(np.linalg.solve(within + ridge, np.mean(used, axis=0) - np.mean(others, axis=0)))


class _Made:
    """Made-up users and the updates that their clients make.

    Args:
        config, plan, recommender: Of the run.
        length: Interactions of each.

    Attributes:
        one: What a client of one of them sends.
    """

    def __init__(self, config: RunConfig, plan: PrivacyPlan, recommender: Recommender, length: int) -> None:
        self._config, self._plan, self._recommender, self.length = config, plan, recommender, length
        steps = plan.steps_per_round
        self.one = "one update" if steps == 1 else f"one update of {steps} local steps"
        self._rng = derive(config.run.seed, "reconstruction from updates")
        uniform = np.full(recommender.num_items, -math.log(recommender.num_items), dtype=np.float32)
        residual = np.zeros(recommender.attached.residual_size, dtype=np.float32)
        self._state = RecommenderState(uniform, recommender.initial_adapter.copy(), residual)
        # In the first round B is zero, and the gradient of A with it.
        known = self.updates(self.histories(length, LEARNED_FROM))
        self._state = dataclasses.replace(self._state, adapter=self._state.adapter + known.mean(axis=0))

    def histories(self, length: int, number: int) -> list[list[int]]:
        """Items of users, all different within one; (number, length)."""
        items = self._recommender.num_items
        return [self._rng.choice(items, size=length, replace=False).tolist() for _ in range(number)]

    def updates(self, histories: Sequence[Sequence[int]]) -> Updates:
        """Plain updates of clients with one user each, (n, d)."""
        return self._trained(histories, _plain(self._plan))

    def protected(self, plain: Updates, histories: Sequence[Sequence[int]]) -> Iterator[tuple[str, NDArray[np.floating]]]:
        """What leaves the clients of these users, and what is left of the sum for who knows everybody else; (n, d) each."""
        plan, sent = self._plan, f"{self.one}, as it is sent"
        in_the_sum = f"{self.one} in the noise of the sum, all others known"
        if not plan.clips_whole_updates:
            noised = self._trained(histories, plan)
            yield sent, noised
            others = (self._trained([[] for _ in histories], plan) for _ in range(plan.num_clients - 1))
            yield in_the_sum, sum(others, start=noised)
            return
        clip, size = plan.l2_clip_norm, plain.shape[1]
        encoding = plan.update_encoding(size, l2_clip_norm=clip)
        bounded = clipped_updates(plain, plan=plan, l2_clip_norm=clip)
        # One source a client, so that each carries its own share of the noise, where it has one.
        rings = encoded(bounded, encoding, plan=plan, sources=[secret_source() for _ in plain])
        yield sent, np.stack([encoding.decode(ring)[:size] for ring in rings])
        if plan.noise_share:
            yield f"{self.one} under a mask", np.stack([encoding.decode(_masked(ring, encoding))[:size] for ring in rings])
        yield in_the_sum, np.stack([encoding.decode(self._with_all_noise(ring, encoding))[:size] for ring in rings])

    def _with_all_noise(self, ring: NDArray[np.uint32], encoding: RingEncoding) -> NDArray[np.uint32]:
        """A contribution with the others' shares of the noise, or with the server's."""
        share = self._plan.noise_share
        if share:
            return encoding.add(ring, encoding.noise(secret_source(), share=share, shares=self._plan.num_clients - 1))
        return ServerNoise(self._plan, seed=0).added_to(ring, encoding, purpose="train", round_number=1)

    def _trained(self, histories: Sequence[Sequence[int]], plan: PrivacyPlan) -> Updates:
        settings = self._config.local_training()
        tasks = [
            TrainingTask(
                state=self._state,
                histories=pl.Series([list(own)] if own else [], dtype=pl.List(pl.Int32)),
                expected_batch_size=self._plan.expected_batch_size,
                learning_rate=settings.learning_rate,
                source=secret_source(),
                negatives=PublicNegatives.of(self._config, 1),
            )
            for own in histories
        ]
        return train(tasks, self._recommender, plan, settings)


def _plain(plan: PrivacyPlan) -> PrivacyPlan:
    """The same local steps without noise and coins; where steps are bounded they still are, so that they stay as small."""
    if plan.adds_noise_locally:
        return dataclasses.replace(plan, mechanism=Mechanism.DP_SGD, noise_multiplier=_NO_NOISE, sampling_rate=1.0)
    return dataclasses.replace(plan, mechanism=Mechanism.NONE, noise_multiplier=0.0, sampling_rate=1.0)


def _masked(ring: NDArray[np.uint32], encoding: RingEncoding) -> NDArray[np.uint32]:
    """A contribution under a mask of a fresh key, as one behind secure sums leaves its client."""
    mask = np.zeros_like(ring)
    add_mask(mask, secret_bytes(32))
    return encoding.add(ring, mask)


def _spanned(made: _Made, part: Part) -> Reconstruction:
    """Items found by the span check, of users with as many as the rank lets it find."""
    length = min(made.length, part.rank + 1)
    histories = made.histories(length, USERS)
    updates = zip(histories, made.updates(histories), strict=True)
    seen = [(span_scores(part, one), part.wanted(own)) for own, one in updates]
    return found_again(f"{made.one}, plain, {length - 1} items, {_NAMES[part.module]}: span check", seen)


def _learned(made: _Made, part: Part, plan: PrivacyPlan) -> list[Reconstruction]:
    """Items found along the learned direction."""
    known = made.histories(made.length, LEARNED_FROM)
    direction = learned_direction(part, made.updates(known), known)
    histories = made.histories(made.length, USERS)
    plain, wanted = made.updates(histories), [part.wanted(own) for own in histories]

    def read(updates: NDArray[np.floating]) -> list[tuple[Floats, set[int]]]:
        return [(part.of_items(one) @ direction, own) for one, own in zip(updates, wanted, strict=True)]

    where = _NAMES[part.module]
    found = [found_again(f"{made.one}, plain, {where}", read(plain))]
    for size in SUMS:
        groups = [range(start, start + size) for start in range(0, USERS - size + 1, size)]
        sums = [(part.of_items(plain[list(group)].sum(axis=0)) @ direction, group) for group in groups]
        union = [(values, set().union(*(wanted[user] for user in group))) for values, group in sums]
        found.append(found_again(f"a plain sum of {size} updates, {where}: the union of their items", union, shown=False))
        each = [(values, wanted[user]) for values, group in sums for user in group]
        found.append(found_again(f"a plain sum of {size} updates, {where}: the items of each user", each))
    if plan.adds_noise and not plan.mechanism.takes_turns:
        found += [found_again(f"{setting}, {where}", read(updates)) for setting, updates in made.protected(plain, histories)]
    return found


def _table(rows: torch.Tensor) -> NDArray[np.float32]:
    return np.asarray(rows.detach().float().cpu().numpy())
