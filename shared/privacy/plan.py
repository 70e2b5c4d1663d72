"""`PrivacyPlan`: the one source of sampling rate, clip norm, noise, event and claim. Nobody else multiplies.

The mechanism here is the silo's: DP-SGD with noise drawn on the client, one example = one user's history, so that the server
(and everybody who sees an adapter) only ever meets noised values. Sampling rate and divisor are public constants; how many
users a silo really has, and how many were drawn, stays private.

What never lives here: noise itself (`shared/randomness.py`), events already spent (`ledger.py`).

Source:
    Abadi et al. 2016, "Deep Learning with Differential Privacy", Alg. 1; McMahan et al. 2018 (user level).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from shared.config import RunConfig
from shared.errors import ConfigError
from shared.privacy.accounting import calibrate, epsilon, rdp_epsilon
from shared.privacy.events import Event

UNIT = "user"
NEIGHBORING_RELATION = "add-or-remove-one-user"

NOT_PROTECTED = (
    "The silo itself: whoever runs a client sees the histories it holds.",
    "The screen: recommendations shown to a user reveal that user's history to whoever sees them.",
    "A person with accounts in several silos: the unit is one user in one silo; budgets of several add up.",
    "The exact metrics, baselines and training losses in the research record: they are not noised.",
    "Floating point: noise is added to floats; the remedy used (sums of several samples) is not a proof.",
)


@dataclass(frozen=True)
class Claim:
    """One promise to one user against one adversary."""

    adversary: str
    unit: str
    relation: str
    epsilon: float | None
    delta: float
    protected: bool
    statement: str


@dataclass(frozen=True)
class PrivacyPlan:
    """What every client does to every contribution, and what that is worth.

    Attributes:
        is_private: Whether noise is added and drawn from a secret source.
        noise_multiplier: Noise per step over the clip norm; 0 without privacy.
        l2_clip_norm: Bound on one user's gradient; infinite without privacy.
        sampling_rate: Probability that a user takes part in one local step.
        steps_per_round: Local steps of one client in one round.
        rounds: Rounds of the whole run.
        delta: The run's delta; 0 without privacy.
        target_epsilon: What was asked for; infinite without privacy.
        popularity_noise_multiplier: Noise of the popularity count over its L2 sensitivity 1; 0 = not released
            under privacy, exact without.
        reproducible: Noise and sampling are derived from the seed, hence known.
        public_catalog: The operator declared that items exist independently of these users.
    """

    noise_multiplier: float
    l2_clip_norm: float
    sampling_rate: float
    steps_per_round: int
    rounds: int
    delta: float
    target_epsilon: float
    popularity_noise_multiplier: float
    reproducible: bool
    public_catalog: bool

    @classmethod
    def from_config(cls, config: RunConfig, *, num_users: int) -> PrivacyPlan:
        """Calibrates the noise of a run.

        Args:
            config: What is wanted. (public)
            num_users: Size of the population, a public constant.

        Raises:
            ConfigError: If delta is not below 1 / num_users.
            PrivacyError: If no noise reaches the epsilon asked for.
        """
        training, privacy = config.training, config.privacy
        steps = training.local_steps * config.federation.rounds
        shared: dict[str, Any] = {
            "sampling_rate": training.sampling_rate,
            "steps_per_round": training.local_steps,
            "rounds": config.federation.rounds,
            "target_epsilon": privacy.epsilon,
            "reproducible": config.run.reproducible,
            "public_catalog": config.data.public_catalog,
        }
        if not config.is_private:
            return cls(
                noise_multiplier=0.0, l2_clip_norm=math.inf, delta=0.0, popularity_noise_multiplier=0.0, **shared
            )  # fmt: skip
        delta = privacy.delta or default_delta(num_users)
        if delta >= 1 / num_users:
            raise ConfigError(
                f"Expected delta < 1/population, got delta={delta:g}, population={num_users} (public). "
                f"Use at most {default_delta(num_users):g}."
            )
        others = _popularity_events(privacy.popularity_noise_multiplier)
        return cls(
            noise_multiplier=calibrate(
                target_epsilon=privacy.epsilon,
                delta=delta,
                sampling_rate=training.sampling_rate,
                steps=steps,
                others=others,
            ),
            l2_clip_norm=privacy.l2_clip_norm,
            delta=delta,
            popularity_noise_multiplier=privacy.popularity_noise_multiplier,
            **shared,
        )

    @property
    def adds_noise(self) -> bool:
        """Whether contributions are clipped and noised."""
        return self.noise_multiplier > 0

    @property
    def is_private(self) -> bool:
        """Whether the noise is also secret, without which no claim is made."""
        return self.adds_noise and not self.reproducible

    @property
    def noise_stddev(self) -> float:
        """Standard deviation of the noise in the sum of one step's clipped gradients."""
        return self.noise_multiplier * self.l2_clip_norm if self.adds_noise else 0.0

    @property
    def popularity_events(self) -> tuple[Event, ...]:
        """The event of the popularity prior, if it is released under noise."""
        return _popularity_events(self.popularity_noise_multiplier)

    def round_event(self) -> Event:
        """What one round of local training costs a user of the silo that trains."""
        return Event(self.noise_multiplier, self.sampling_rate, self.steps_per_round)

    def epsilon_after(self, rounds: int, *, popularity_releases: int = 1) -> float:
        """Upper bound after so many rounds and releases of the popularity prior; infinite without noise."""
        if not self.adds_noise:
            return math.inf
        events = [*self.popularity_events * popularity_releases, *([self.round_event()] * rounds)]
        return epsilon(events, delta=self.delta)

    def rdp_epsilon_after(self, rounds: int) -> float:
        """The looser cross-check of `epsilon_after`."""
        if not self.adds_noise:
            return math.inf
        return rdp_epsilon([*self.popularity_events, *([self.round_event()] * rounds)], delta=self.delta)

    def why_not_private(self) -> str | None:
        """Plain words for a run that claims nothing; None where it does."""
        if not self.adds_noise:
            return "privacy is off (epsilon = inf): updates are neither clipped nor noised"
        if self.reproducible:
            return "not private: noise and sampling are derived from the seed, so whoever knows it can subtract them"
        return None

    def claims(self, spent: float | None) -> list[Claim]:
        """One line for each adversary.

        Args:
            spent: Epsilon of all events that were released, from the clients' ledgers; None where nothing is claimed.
        """
        protected = self.is_private and spent is not None
        bound = spent if protected else None
        promise = (
            f"Whether one user's whole history was used changes any outcome's probability by at most a factor "
            f"exp({spent:.2f}), up to probability {self.delta:g}."
            if protected
            else "Not private: no bound is claimed."
        )

        # What a plan without secret noise would say about where noise was added would be false.
        def said(reason: str) -> str:
            return f"{promise} {reason}" if protected else promise

        lines = [
            (
                "outsider with every released adapter",
                protected,
                said("Noise was added inside each silo before anything left it."),
            ),
            (
                "honest-but-curious server",
                protected,
                said("It sees each silo's noised update and who took part, never a clean one."),
            ),
            (
                "other silos colluding with the server",
                protected,
                said("A silo's own noise does not depend on what others add."),
            ),
            (
                "the operator of the user's own silo",
                False,
                "No protection: the silo holds the histories it trains on.",
            ),
        ]
        return [
            Claim(
                adversary,
                UNIT,
                NEIGHBORING_RELATION,
                bound if covered else None,
                self.delta,
                covered,
                statement,
            )
            for adversary, covered, statement in lines
        ]

    def assumptions(self, *, research: bool) -> list[tuple[str, bool]]:
        """What a claim rests on, each checked or declared."""
        return [
            ("Noise and sampling come from the system's CSPRNG", not self.reproducible),
            ("Every user's gradient is clipped before it is added up", self.adds_noise),
            ("Sampling rate and divisor are public constants", True),
            ("The catalog and its texts exist independently of these users (declared)", self.public_catalog),
            ("The released round was fixed in advance", True),
            ("No exact metric left a client", not research),
        ]


def _popularity_events(noise_multiplier: float) -> tuple[Event, ...]:
    return (Event(noise_multiplier, 1.0, 1),) if noise_multiplier > 0 else ()


def default_delta(num_users: int) -> float:
    """1 / (10 x population), rounded down to a power of ten."""
    return 10.0 ** math.floor(-math.log10(10 * num_users) + 1e-9)
