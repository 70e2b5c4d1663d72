"""Admission: whether clients follow a plan, what it costs them, and the reservation, before any data is read.

A server's plan is held against the clients' own configuration (`verify`), then against what the owner of each device allows,
in the ledger, which reserves what a message costs (`reserve`). What never lives here: the ledger's file and rules
(`client/ledger/`), data, training, or noise.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from client.batch import ClientBatch
from client.ledger.ledger import Binding, Ledger, Policy, Request, Spending
from client.ledger.settling import Reservation, reserved
from shared.errors import PolicyRefused, TacitError
from shared.privacy.calibration import plan_of
from shared.privacy.events import Event
from shared.privacy.plan import PrivacyPlan
from shared.privacy.releases import release_of

# Probability that a client is asked more often than its ledger expects of a plan.
_ASKED_MORE_OFTEN = 1e-6
# Calibration is a search; the same plan made on another machine may differ in its last digits.
_CALIBRATION_TOLERANCE = 1e-6


def verify(
    batch: ClientBatch, plan: PrivacyPlan, *, round_number: int | None = None, l2_clip_norm: float | None = None
) -> None:
    """Refuses a plan other than the one that these nodes' own configuration leads to, and a round that it does not have.

    Args:
        plan: The server's. (public)
        round_number: What it is for; None before the first round. (public)
        l2_clip_norm: This round's bound; None where nothing is clipped to it. (public)

    Raises:
        PolicyRefused: If a field differs, there is less noise, or the round is not one of the plan's.
    """
    if round_number is not None and not 1 <= round_number <= plan.rounds:
        raise PolicyRefused(
            f"Expected round_number in 1..{plan.rounds}, got round_number={round_number}. No data was read; the plan's "
            "noise is for its own rounds."
        )
    if plan.is_private and batch.data.shaped_by_all:
        raise PolicyRefused(
            f"Expected training data that depend on no other user, got {', '.join(batch.data.shaped_by_all)} in this "
            "population. No data was read; declare what was computed from all users (data.cut_offs), and write the "
            "population again."
        )
    size = batch.public.size
    mine = plan_of(batch.config, num_users=size.users, num_clients=size.clients)
    clip = plan.l2_clip_norm if l2_clip_norm is None else l2_clip_norm
    other_clip = not plan.clipping_share and clip != mine.l2_clip_norm
    if (what := _difference(plan, mine)) or other_clip or math.isnan(clip):
        what = what or "l2_clip_norm"
        raise PolicyRefused(
            f"Expected a plan with this node's own settings, got another {what}. No data was read; use the same "
            "configuration on both ends."
        )


def _difference(plan: PrivacyPlan, mine: PrivacyPlan) -> str | None:
    """The field in which a plan differs from a node's own, or has less noise; None where it may be followed."""
    noise = {"noise_multiplier": (plan.noise_multiplier, mine.noise_multiplier)} | {
        f"noise of {one.name}": (one.noise_multiplier, mine.noise_of(one.name)) for one in plan.releases
    }
    releases = tuple(dataclasses.replace(one, noise_multiplier=mine.noise_of(one.name)) for one in plan.releases)
    rest = dataclasses.replace(plan, noise_multiplier=mine.noise_multiplier, releases=releases)
    names = [one.name for one in dataclasses.fields(plan) if getattr(rest, one.name) != getattr(mine, one.name)]
    less = [name for name, (sent, own) in noise.items() if not sent >= own * (1 - _CALIBRATION_TOLERANCE)]
    return next(iter([*names, *less]), None)


def binding(batch: ClientBatch, plan: PrivacyPlan) -> Binding:
    """What the ledger has to be about: the data by their declared name, never by anything computed from them."""
    return Binding(batch.data_name, plan.unit, plan.relation, plan.delta)


@contextmanager
def reserve(
    batch: ClientBatch, plan: PrivacyPlan, purpose: str, *, run: str, round_number: int, l2_clip_norm: float | None = None
) -> Iterator[Reservation]:
    """Reserves what a message costs before data is read (`client/ledger/settling.py`). Without privacy nothing is recorded.

    Guarantee:
        The whole plan of the run is held against each owner's limits, at its first message and at every later one: what
        is refused has spent nothing.

    Yields:
        The clients that their own ledger or owner refused, and where faults are counted.

    Raises:
        PrivacyError: If the ledger cannot be used.
        PolicyRefused: If the plan has no noise for such a request.
    """
    spend = _spending(batch, plan, purpose, round_number)
    if plan.adds_noise and spend is None:
        raise PolicyRefused(
            f"Expected a request that the plan has noise for, got one for {purpose} without. No data "
            "was read; a private run gives no exact answer."
        )
    refused = {} if plan.is_private else _under_limits(batch)
    if spend is None:
        yield Reservation(None, refused=refused)
        return
    # Clients are refused here only in a reproducible run, whose noise is no secret.
    asked = [place for place in range(len(batch)) if place not in refused] if refused else range(len(batch))
    assumed = batch.config.secure_aggregation
    request = Request(
        unit=plan.unit,
        mechanism=plan.mechanism,
        secure_aggregation=plan.secure_aggregation,
        l2_clip_norm=l2_clip_norm or plan.l2_clip_norm,
        noise_multiplier=plan.smallest_noise_multiplier,
        rounds=plan.rounds,
        delta=plan.delta,
        corrupt_fraction=assumed.corrupt_fraction if plan.mechanism.shares_noise else None,
        dropout_fraction=assumed.dropout_fraction if plan.mechanism.shares_noise else None,
    )
    separation = plan.min_separation if purpose == "train" and plan.mechanism.clients_take_turns else 0
    with reserved(
        _ledger(batch.ledger_file, binding(batch, plan)),
        Made(len(asked), lambda place: spend(batch.account(asked[place]))),
        asked=asked,
        refused=refused,
        request=request,
        run=run,
        purpose=purpose,
        round_number=round_number,
        min_separation=separation,
    ) as reservation:
        yield reservation


def _under_limits(batch: ClientBatch) -> dict[int, TacitError]:
    """The clients that answer no plan without secret noise, because an owner set a limit: none could hold for it.

    Returns:
        The refusal of each such client, by its place among these.
    """
    if not batch.ledger_file.exists() or not (limits := _limits(batch.ledger_file)).policies():
        return {}
    refusal = PolicyRefused(
        "Expected a plan with secret noise, because the owner of this device set limits, got a run that is not "
        "private. No data was read; use a finite privacy.epsilon without run.reproducible, and no exact metrics."
    )
    return {place: refusal for place in range(len(batch)) if limits.policy(batch.account(place)) != Policy()}


def _spending(
    batch: ClientBatch, plan: PrivacyPlan, purpose: str, round_number: int
) -> Callable[[str], list[Spending]] | None:
    """What a message asks of a client's accounts, by the client's name; under DP-FTRL its users are accounted by group.

    The groups whose turn it is not are named too, without an event, so that the whole plan is held against all of them.
    None where nothing is recorded: without noise there is nothing that could be.
    """
    if not plan.adds_noise:
        return None
    planned = _planned(plan)
    if purpose == "train" and plan.mechanism.users_take_turns:
        event, turns = plan.round_event(), _group_steps(plan, round_number)
        parts = [[dataclasses.replace(event, steps=turns[group])] if group in turns else [] for group in _groups(plan)]
        return lambda owner: [Spending(_group(owner, plan, group), own, planned) for group, own in enumerate(parts)]
    events: tuple[Event, ...] = (plan.round_event(),) if purpose == "train" else plan.release_events(release_of(purpose))
    if not events:
        return None
    if not plan.mechanism.users_take_turns:
        return lambda owner: [Spending(owner, events, planned)]
    return lambda owner: [Spending(_group(owner, plan, group), events, planned) for group in _groups(plan)]


class Made(Sequence[list[Spending]]):
    """A sequence whose entries are made when they are looked at, so that a million of them take no memory."""

    def __init__(self, length: int, make: Callable[[int], list[Spending]]) -> None:
        self._length, self._make = length, make

    def __len__(self) -> int:
        """How many there are."""
        return self._length

    def __getitem__(self, place: Any) -> Any:
        """One of them."""
        if not 0 <= place < self._length:
            raise IndexError(place)
        return self._make(place)


def _group(owner: str, plan: PrivacyPlan, group: int) -> str:
    return f"{owner}/group-{group}-of-{plan.min_separation}"


def _groups(plan: PrivacyPlan) -> range:
    return range(plan.min_separation)


@lru_cache(maxsize=8)
def _planned(plan: PrivacyPlan) -> tuple[Event, ...]:
    """What the whole run asks of one client.

    Where the server draws the clients, its coins decide how often: counted is what is exceeded for one client in a million.
    Counting every round would refuse plans that no honest server carries out so, and make owners set limits so wide that a
    dishonest one could.
    """
    from scipy.stats import binom

    rounds = plan.rounds
    if plan.clips_whole_updates and not plan.min_separation and plan.sampling_rate < 1:
        rounds = min(rounds, max(1, int(binom.isf(_ASKED_MORE_OFTEN, rounds, plan.sampling_rate))))
    return tuple(plan.events(rounds=rounds))


def _group_steps(plan: PrivacyPlan, round_number: int) -> dict[int, int]:
    """Local steps of a round in which each group of users takes part."""
    first = (round_number - 1) * plan.steps_per_round
    steps: dict[int, int] = {}
    for step in range(first, first + plan.steps_per_round):
        group = step % plan.min_separation
        steps[group] = steps.get(group, 0) + 1
    return steps


@lru_cache(maxsize=8)
def _ledger(path: Path, binding: Binding) -> Ledger:
    return Ledger(path, binding=binding)


@lru_cache(maxsize=8)
def _limits(path: Path) -> Ledger:
    """The same file, opened to read its limits whatever it is bound to; checked once a process, not once a message."""
    return Ledger(path)
