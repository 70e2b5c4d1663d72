"""What claims rest on: each assumption with whether it holds, and whose claim is void where it does not.

Everything that can void a claim follows from the plan, so that no claim can be computed without it. What never lives here:
epsilons (`accounting.py`), and whether a claim holds (`claims.py`).
"""

from __future__ import annotations

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from shared.config import RunConfig
from shared.privacy.mechanism import Mechanism
from shared.privacy.plan import PrivacyPlan
from shared.privacy.supported_claims import ADVERSARIES, Adversary

# Where delta is larger than this many users' worth, even a perfect mechanism may give a user away.
LARGEST_SHARE_OF_DELTA = 0.1


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class Assumption:
    """Something that is checked or declared, and that the mathematics of a claim takes for granted.

    Attributes:
        text: A sentence that is true where the assumption holds.
        holds: Whether it does.
        voids: Adversaries whose claim is void where it does not. Empty: it is a stated limit, which qualifies every claim:
            what is claimed of the released numbers stays true, and something beside them (how long a reply took, the last
            bits of a float, a delta that is a little large) may tell more.
    """

    text: str
    holds: bool
    voids: tuple[Adversary, ...] = ()


def assumptions(plan: PrivacyPlan, config: RunConfig) -> list[Assumption]:
    """All that claims about a run rest on.

    Args:
        plan: The plan. (public)
        config: What the plan was made of: how its constants were found, and when replies are sent. (public)
    """
    share = plan.delta * plan.num_units
    return [
        *_voiding(plan),
        *_of_constants(config),
        Assumption("Replies leave at fixed times, whatever a client computes", config.privacy.reply_bucket_seconds > 0),
        Assumption("Noise is added to integers, so that no float gives a value away", plan.clips_whole_updates),
        Assumption(
            f"delta is at most a tenth of 1/{'population' if plan.unit == 'user' else 'number of windows'}",
            share <= LARGEST_SHARE_OF_DELTA * (1 + 1e-9),
        ),
    ]


def _of_constants(config: RunConfig) -> list[Assumption]:
    """How the public constants were found; one that is counted in the data may differ by one user at a boundary."""
    found = [
        Assumption(
            "The number of users is declared, independently of the data (else it is the number found, rounded down)",
            config.privacy.population > 0,
        )
    ]
    if config.federation.sizes == "attribute":
        found.append(
            Assumption(
                "Silos are known before their users (else each value of the attribute found in the data makes one)",
                config.federation.clients > 0,
            )
        )
    return found


def failed(plan: PrivacyPlan, adversary: Adversary) -> tuple[str, ...]:
    """The assumptions that a claim against this adversary rests on and that do not hold; empty where the claim stands."""
    return tuple(found.text for found in _voiding(plan) if not found.holds and adversary in found.voids)


def _voiding(plan: PrivacyPlan) -> list[Assumption]:
    found = [
        Assumption("Noise and sampling come from a cryptographic source", not plan.reproducible, ADVERSARIES),
        Assumption("Every contribution is clipped and noised before it is released", plan.adds_noise, ADVERSARIES),
        Assumption("Sampling rate, divisor and weights are public constants", True, ADVERSARIES),
        # Every adversary has the catalog, and the released tables have a row for each of its items.
        Assumption(
            "The catalog and its texts exist independently of these users (declared)", plan.public_catalog, ADVERSARIES
        ),
        Assumption("The released round was fixed in advance or chosen from noised, accounted values", True, ADVERSARIES),
    ]
    if plan.adds_noise_locally or plan.masks_contributions:
        found.append(
            Assumption("The owner of every device set a limit in its ledger (a plan cannot know)", False, ("active-server",))
        )
    if plan.mechanism.shares_noise:
        found.append(
            Assumption(
                "Single updates are hidden from the server by secure aggregation",
                plan.masks_contributions,
                ("server", "active-server"),
            )
        )
    if plan.masks_contributions:
        found.append(
            Assumption(
                "No larger part of a cohort colludes with the server than the neighborhoods are made for "
                "(secure_aggregation.corrupt_fraction)",
                True,
                ("server", "active-server"),
            )
        )
        found.append(
            Assumption(
                "Another party than the server's operator decides who is in the roster of clients (a plan cannot know)",
                False,
                ("active-server",),
            )
        )
    if plan.mechanism is Mechanism.CENTRAL and plan.sampling_rate < 1:
        found.append(
            Assumption("Who took part in a round, and how many, stays secret from the outsider", True, ("outsider",))
        )
    return found
