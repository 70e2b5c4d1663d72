"""What a client sends, in words: a sentence for each field of each reply of the allow-list, by plan.

The allow-list is `shared/protocol/messages.py`.

Pages, terminal and `release.json` take their list from here, so that none of them can leave out what another says, and a
field that the protocol gains without a sentence turns a test red. What never lives here: what an adversary learns from it
(`claims.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from shared.privacy.plan import PrivacyPlan
from shared.privacy.releases import ReleaseName, kind_of


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class Sent:
    """One thing that a client sends.

    Attributes:
        what: The thing.
        when: How often in a run.
        how: What is done to it on the device before.
        bytes: How large the contribution is, each time; None where that is not known or not fixed.
    """

    what: str
    when: str
    how: str
    bytes: int | None = None


Bytes = Mapping[ReleaseName, int]


def sent_by_a_client(plan: PrivacyPlan, message_bytes: Bytes = MappingProxyType({})) -> list[Sent]:
    """All that a client sends in a run, in the order of the run.

    Args:
        plan: What is done to contributions. (public)
        message_bytes: How large the contribution to each release is (`StatisticShapes.message_bytes`). (public)
    """
    return [row for rows in FIELDS.values() for row in rows(plan, message_bytes)]


def _vectors(plan: PrivacyPlan, message_bytes: Bytes) -> list[Sent]:
    rows = [
        Sent(
            kind_of(one.name).holds,
            "once" if one.times == 1 else f"{one.times} times",
            _how(plan),
            message_bytes.get(one.name),
        )
        for one in plan.releases
    ]
    if plan.rounds:
        rows.append(Sent("the change of the trained adapter weights", f"each round, {plan.rounds} at most", _how(plan)))
    return rows


def _rank(plan: PrivacyPlan, message_bytes: Bytes) -> list[Sent]:
    if plan.clips_whole_updates or not plan.rounds:
        return []
    return [Sent("the rank of its update, where one is set for it", "each round", "a setting, which no data changes")]


def _answered(plan: PrivacyPlan, message_bytes: Bytes) -> list[Sent]:
    identity = Sent("its lasting identity, to the server and to neighbors", "each secure sum", "the same in all")
    neighbors = Sent(
        "its keys with a signature, its choice of neighbors, sealed shares of its secrets, statements, opened shares",
        "each secure sum",
        "drawn anew for it",
    )
    head = Sent(
        "a hash over its log of what left it, 32 bytes; in a simulation there is none", "each contribution", "salted"
    )
    return [
        *([identity, neighbors] if plan.masks_contributions else []),
        head,
        Sent("that it answers, and when", "each request", "in the open"),
        Sent(
            "a refusal, or the place in the code of a fault", "where there is one", "one line, without a number of the data"
        ),
    ]


def _how(plan: PrivacyPlan) -> str:
    if not plan.adds_noise:
        return "exact: neither clipped nor noised"
    if plan.adds_noise_locally:
        return "clipped for each unit, under the full noise of the silo"
    if plan.masks_contributions:
        return "clipped, as integers, under one client's share of the noise and under masks; the server gets the sum of all"
    if plan.mechanism.shares_noise:
        return "clipped, as integers, under one client's share of the noise; only the sum of all carries the noise"
    return "clipped, as integers, without noise: the server sees it clean and adds the noise to the sum"


# Reply and field -> what of it is sent. The encoding packs the values and does not travel; what surrounds a reply is
# Flower's own message.
FIELDS: dict[tuple[str, str], Callable[[PrivacyPlan, Bytes], list[Sent]]] = {
    ("ContributionReply", "values"): _vectors,
    ("ContributionReply", "rank"): _rank,
    ("ContributionReply", "encoding"): lambda plan, message_bytes: [],
    ("Message", "error, metadata and log"): _answered,
}
