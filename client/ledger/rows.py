"""What the rows of a ledger mean: columns, and events and limits as rows.

What never lives here: the file (`file.py`), and what is done with the rows (`reservations.py`, `view.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar

from client.ledger.limits import EVERYONE, Policy
from shared.privacy.events import Event

Limits = TypeVar("Limits")

ENTRY = ("owner", "run", "purpose", "round_number", "state", "software", "recorded_at")
EVENT = tuple(field.name for field in fields(Event))
POLICY = tuple(field.name for field in fields(Policy))
_MECHANISMS = POLICY.index("mechanisms")
# An event but for how often it happened.
RELEASE = ", ".join(name for name in EVENT if name != "steps")
# Holds for the events that count as spent.
COUNTS = "state != 'freed'"
# Kinds of accounts, as names begin: of users, of silos by number, of silos that each are a value of an attribute.
_KINDS = ("user", "client", "value")
# The first and the last account of each: names of one kind lie together, so the two differ in kind wherever any two do. Each
# is a look at one place of the index ("." follows "-").
ENDS_OF_KINDS = " UNION ALL ".join(
    f"SELECT * FROM (SELECT owner FROM events WHERE owner >= '{kind}-' AND owner < '{kind}.' ORDER BY owner {order} LIMIT 1)"
    for kind in _KINDS
    for order in ("ASC", "DESC")
)
POLICIES = f"SELECT owner, {', '.join(POLICY)} FROM policies"


def event_of(release: Sequence[Any], steps: int) -> Event:
    """The event with the columns `RELEASE`."""
    names = (name for name in EVENT if name != "steps")
    return Event(**dict(zip(names, release, strict=True)), steps=steps)


def policies_of(rows: Iterable[Sequence[Any]]) -> dict[str, Policy]:
    """Limits by owner, from the rows of `POLICIES`."""
    return {
        str(owner): Policy(**dict(zip(POLICY, limits, strict=True), mechanisms=_listed(limits[_MECHANISMS])))
        for owner, *limits in rows
    }


def limits_of(policy: Policy) -> tuple[Any, ...]:
    """The columns `POLICY` of some limits."""
    values = [getattr(policy, name) for name in POLICY]
    if policy.mechanisms is not None:
        values[_MECHANISMS] = ",".join(policy.mechanisms)
    return tuple(values)


def _listed(mechanisms: str | None) -> tuple[str, ...] | None:
    return None if mechanisms is None else tuple(mechanisms.split(","))


def effective(limits: Mapping[str, Limits], owner: str, *, none: Limits) -> Limits:
    """The limits that hold for an owner: its own, or else its client's, or else everyone's, or else none."""
    return limits.get(owner) or limits.get(client_of(owner)) or limits.get(EVERYONE) or none


def client_of(owner: str) -> str:
    """Whose the account of a group of users is: the limits of `client-3` hold for `client-3/group-0-of-8` too."""
    return owner.partition("/")[0]


def kind_of(owner: str) -> str:
    """What an account is one of: `user`, `client`, or `value-` and the attribute's part of the name; empty for other names.

    What a user spent under one kind is in no account of another.
    """
    kind, dash, rest = client_of(owner).partition("-")
    if not dash or kind not in _KINDS:
        return ""
    return f"value-{rest.partition('-')[0]}" if kind == "value" else kind


def kinds_of(owners: Iterable[str]) -> set[str]:
    """The kinds that there are among accounts; other names count for none."""
    return {kind_of(owner) for owner in owners} - {""}


def marks(values: Sequence[Any]) -> str:
    """A question mark a value."""
    return ", ".join("?" * len(values))
