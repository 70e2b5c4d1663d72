"""`PrivacyPlan`: the one source of sampling rate, clip norm, noise, divisor, event and claim. Nobody else multiplies.

A plan is made from what is wanted by calibrating the noise of the whole run (`calibration.py`): training, the popularity
prior and the released evaluations share one budget. It travels to every client as scalars; a client checks it against its
own configuration and against what its owner allows (`client/ledger/ledger.py`) before any data is read.

Two families (`supported_claims.py` has the table): inside silos every local step is noised before anything leaves; across
devices one user's whole update is clipped, rounded to integers and summed, and the noise is added to that exact sum, by the
server or in shares. Rates and divisors are public constants; how many users there really are, and who was drawn, is not
used.

What never lives here: noise itself (`shared/randomness.py`), events already spent (`client/ledger/ledger.py`), sentences
(`claims.py`).

Source:
    Abadi et al. 2016, "Deep Learning with Differential Privacy"; McMahan et al. 2018 (user level, whole updates); Agarwal,
    Kairouz and Liu 2021 (Skellam shares); Andrew et al. 2021 (adaptive clipping); Kalinin and Lampert 2024 (banded DP-FTRL).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from shared.errors import ConfigError
from shared.privacy import supported_claims
from shared.privacy.accounting import epsilon
from shared.privacy.correlated_noise import event_noise_multiplier
from shared.privacy.events import Event, Relation, with_known_participation
from shared.privacy.mechanism import Mechanism
from shared.privacy.population import TOLERANCE, largest_rounded_to
from shared.privacy.releases import L2_BOUND, METRICS, Purpose, Release, ReleaseName, is_sparse, release_names, release_of
from shared.privacy.supported_claims import Adversary
from shared.randomness import LARGEST_ROUNDED_STDDEV
from shared.secagg.encoding import MIN_SENSITIVITY, RingEncoding


@dataclass(frozen=True)
class PrivacyPlan:
    """What every client does to every contribution, and what that is worth. Scalars only: it travels in every instruction.

    Attributes:
        mechanism: Who adds noise to what; `none` without privacy.
        unit: `user` or `window`.
        adversary: Whom `target_epsilon` is promised against.
        secure_aggregation: `masked`: every client runs the protocol; `stand-in`: a plain modular sum in the open.
        windows_per_user: Unit `window`: most windows of one user, a public bound; 1 where the unit is a user.
        population: Users, a public constant: declared or rounded, never counted.
        num_clients: Clients, a public constant; the population where every user is one.
        rounds: Rounds of the whole run.
        steps_per_round: Local steps of one client in one round.
        sampling_rate: Silos: probability that a unit takes part in one local step. Across devices: that a client takes
            part in one round.
        noise_multiplier: Noise over the L2 bound of one contribution; 0 without privacy.
        l2_clip_norm: Bound C on one contribution, at the start where clipping is adaptive; infinite without privacy.
        delta: The run's delta; 0 without privacy.
        target_epsilon: What was asked for; infinite without privacy.
        cohort_cap: Largest cohort; 0 = none.
        minimum_survivors: Answers below which a round is dropped.
        colluding_clients: Clients whose noise shares do not count.
        min_separation: DP-FTRL: steps (silo) or rounds (central) between two participations of a user; 0 elsewhere.
        clipping_share: Share of a contribution's squared L2 bound that counts norms for adaptive clipping; 0 = fixed.
        clipping_quantile: Share of norms that adaptive clipping leaves unclipped.
        releases: What is released beside training, in the order of a run; exact without privacy.
        reproducible: Noise and sampling are derived from the seed, hence known.
        public_catalog: The operator declared that items exist independently of these users.
        smallest_active_sum: Masked contributions: honest clients in every sum that an active server can open, which clients
            enforce; 0: it may leave one alone.
    """

    mechanism: Mechanism
    unit: str
    adversary: str
    secure_aggregation: str
    windows_per_user: int
    population: int
    num_clients: int
    rounds: int
    steps_per_round: int
    sampling_rate: float
    noise_multiplier: float
    l2_clip_norm: float
    delta: float
    target_epsilon: float
    cohort_cap: int
    minimum_survivors: int
    colluding_clients: int
    min_separation: int
    clipping_share: float
    clipping_quantile: float
    releases: tuple[Release, ...]
    reproducible: bool
    public_catalog: bool
    smallest_active_sum: int = 0

    def __post_init__(self) -> None:
        """Takes a mechanism by its name, too, as it travels."""
        object.__setattr__(self, "mechanism", Mechanism.named(self.mechanism))

    # What a plan is.

    @property
    def adds_noise(self) -> bool:
        """Whether contributions are clipped and noised, by whomever."""
        return self.noise_multiplier > 0

    @property
    def adds_noise_locally(self) -> bool:
        """Whether every local step is clipped and noised on the device, per unit."""
        return self.adds_noise and self.mechanism.adds_noise_locally

    @property
    def clips_whole_updates(self) -> bool:
        """Whether one contribution is one user's whole update, and travels as integers."""
        return self.mechanism.clips_whole_updates

    @property
    def masks_contributions(self) -> bool:
        """Whether contributions leave under masks, so that the server gets their sum alone."""
        return self.secure_aggregation == "masked"

    @property
    def is_private(self) -> bool:
        """Whether the noise is also secret, without which no claim is made."""
        return self.adds_noise and not self.reproducible

    @property
    def num_units(self) -> int:
        """The most units of privacy that there are, a public constant; delta has to be far below one over it."""
        return self.population * self.windows_per_user

    @property
    def relation(self) -> Relation:
        """What neighboring data sets are for the outsider; others know who took part, and `seen_by` and claims say so.

        Windows have fixed places, so one is replaced. Users come and go, except under two mechanisms that another client
        would change for others: it would move all behind it under DP-FTRL by the server, whose turns go by a client's place;
        and it would add a share of noise under `distributed`, so that the variance of a release counts the cohort. There a
        user's data are taken out and the client stays.
        """
        if self.unit == "window":
            return "replace-one"
        return "zero-out" if self.mechanism.another_client_shows else "add-or-remove-one"

    def why_not_private(self) -> str | None:
        """Plain words for a run that claims nothing; None where it does."""
        if not self.adds_noise:
            return "privacy is off (epsilon = inf): updates are neither clipped nor noised"
        if self.reproducible:
            return "not private: noise and sampling are derived from the seed, so whoever knows it can subtract them"
        return None

    # What is done to a contribution.

    @property
    def noise_stddev(self) -> float:
        """Silos: standard deviation of the noise in the sum of one step's clipped gradients."""
        return self.noise_multiplier * self.l2_clip_norm if self.adds_noise else 0.0

    @property
    def local_sampling_rate(self) -> float:
        """Probability that a unit takes part in one local step; where whole updates are clipped all steps see all data."""
        return 1.0 if self.clips_whole_updates else self.sampling_rate

    @property
    def expected_batch_size(self) -> float:
        """Public constant that the sum of one local step's gradients is divided by.

        Where whole updates are clipped a client is one user, and the batch is that user.
        """
        if self.clips_whole_updates:
            return 1.0
        users_per_client = self.population / self.num_clients
        return users_per_client / self.min_separation if self.min_separation else self.sampling_rate * users_per_client

    @property
    def expected_cohort(self) -> float:
        """Public constant that the sum of one round's updates is divided by."""
        return self.num_clients / self.min_separation if self.min_separation else self.sampling_rate * self.num_clients

    @property
    def most_clients(self) -> int:
        """The most clients that this plan is right for; a public constant with room where users are clients.

        Sums across devices are made in rings with room for so many. A capped cohort is accounted for the most that the
        declared number may stand for, because more clients mean more draws that are cut.
        """
        if not self.clips_whole_updates and self.num_clients != self.population:
            return self.num_clients
        return largest_rounded_to(self.num_clients) if self.cohort_cap else TOLERANCE * self.num_clients

    def verify_clients(self, found: int) -> None:
        """Refuses more clients than the plan is right for.

        Args:
            found: Clients to be asked. (private where every user is one)

        Raises:
            ConfigError: If they are too many; the message does not say how many.
        """
        if found > self.most_clients:
            raise ConfigError(
                f"Expected at most {self.most_clients} clients for a population of {self.population} (privacy.population), "
                "got more. Declare a population of at least the number of users."
            )

    @property
    def noise_share(self) -> float:
        """Part of the variance in the sum that each client adds: 1 / (survivors - colluders) in shares, else 0."""
        return 1.0 / (self.minimum_survivors - self.colluding_clients) if self.mechanism.shares_noise else 0.0

    def l2_bound(self, l2_clip_norm: float) -> float:
        """L2 bound of one whole contribution: the clipped update, and beside it the bit of adaptive clipping.

        Also the largest distance to the contribution of a user without data, which is zero in every coordinate.
        """
        return l2_clip_norm / math.sqrt(1.0 - self.clipping_share)

    def clipping_bit(self, l2_clip_norm: float) -> float:
        """Absolute value of the coordinate that says whether an update was within C; 0 where clipping is fixed.

        A contribution without an update has 0 there.
        """
        return l2_clip_norm * math.sqrt(self.clipping_share / (1.0 - self.clipping_share))

    def update_encoding(self, size: int, *, l2_clip_norm: float) -> RingEncoding:
        """How a round's contributions become integers.

        Args:
            size: Trained parameters d, without the coordinate of adaptive clipping.
            l2_clip_norm: This round's bound C.
        """
        extra = 1 if self.clipping_share else 0
        most = self.cohort_cap or self.most_clients
        return self._encoding(size + extra, self.l2_bound(l2_clip_norm), self.noise_multiplier, num_summands=most)

    def release_encoding(self, release: Release, size: int, *, sparse: bool = False) -> RingEncoding:
        """How contributions to a release become integers.

        Args:
            release: Which.
            size: Values of a contribution.
            sparse: Whether one unit's vector has few nonzero values, and is not rotated.
        """
        return self._encoding(size, L2_BOUND, release.noise_multiplier, rotated=not sparse)

    def _encoding(
        self,
        size: int,
        l2_bound: float,
        noise_multiplier: float,
        *,
        num_summands: int | None = None,
        rotated: bool = True,
    ) -> RingEncoding:
        encoding = RingEncoding.choose(
            size=size,
            l2_bound=l2_bound,
            noise_multiplier=noise_multiplier,
            num_summands=num_summands or self.most_clients,
            seed=0,
            rotated=rotated,
        )
        steps = math.sqrt(encoding.noise_variance)
        if not self.mechanism.shares_noise and steps and not 1.0 <= steps <= LARGEST_ROUNDED_STDDEV:
            raise ConfigError(
                f"Expected a noise multiplier of a size that integers can carry, got {noise_multiplier:.3g} for {size} "
                "values. Use fewer trained parameters, or an epsilon that needs less (or more) noise."
            )
        return encoding

    def verify_encodings(self, *, size: int, sizes: Mapping[Purpose, int]) -> None:
        """Tries out every encoding of the run, before anybody is asked for anything.

        Args:
            size: Trained parameters d.
            sizes: Values of a contribution to each purpose (`releases.py`).

        Raises:
            ConfigError: If one cannot be made.
        """
        if not self.clips_whole_updates:
            return
        self.update_encoding(size, l2_clip_norm=self.l2_clip_norm)
        for purpose, values in sizes.items():
            release = self.release(release_of(purpose))
            if release is not None:
                self.release_encoding(release, values, sparse=is_sparse(purpose))

    def released_stddev(self, encoding: RingEncoding, *, answers: int) -> float:
        """Standard deviation of the noise in a decoded sum; shares of more than the survivors make it larger.

        Args:
            encoding: Of the release.
            answers: Contributions in the sum.
        """
        return encoding.noise_stddev * math.sqrt(answers * self.noise_share if self.noise_share else 1.0)

    def release_stddev(self, release: Release) -> float:
        """Silos: standard deviation of the noise that each silo adds to its own part of a release."""
        return release.noise_multiplier * L2_BOUND if self.adds_noise_locally else 0.0

    # What is released beside training, and what it costs.

    @property
    def evaluations(self) -> int:
        """Releases of metrics in the whole run."""
        return sum(one.times for one in self.releases if one.name == METRICS.name)

    @property
    def statistics(self) -> tuple[ReleaseName, ...]:
        """The names of all other releases."""
        return tuple(one.name for one in self.releases if one.name != METRICS.name)

    def release(self, name: ReleaseName) -> Release | None:
        """One of `releases`; None where the run has none of this name."""
        return next((one for one in self.releases if one.name == name), None)

    def noise_of(self, name: ReleaseName) -> float:
        """The noise multiplier of a release; 0 where there is none, or it is exact."""
        release = self.release(name)
        return 0.0 if release is None else release.noise_multiplier

    def release_events(self, name: ReleaseName) -> tuple[Event, ...]:
        """The event of one release, if it is made under noise."""
        release = self.release(name)
        return (self.full_release(release.noise_multiplier),) if release is not None and self.adds_noise else ()

    def full_release(self, noise_multiplier: float) -> Event:
        """One release to which every unit contributes, under this mechanism's kind of noise."""
        if self.mechanism.shares_noise:
            return Event(noise_multiplier, mechanism="skellam", l2_sensitivity=MIN_SENSITIVITY)
        return Event(noise_multiplier)

    def round_event(self) -> Event:
        """What one round of training costs a unit that may be, or is, in it.

        DP-FTRL has no sampling: this is one participation, and `participations` says how many there can be.
        """
        if self.min_separation:
            steps = self.rounds * (self.steps_per_round if self.mechanism.users_take_turns else 1)
            return Event(event_noise_multiplier(self.noise_multiplier, self.min_separation, steps))
        if not self.clips_whole_updates:
            return Event(self.noise_multiplier, self.sampling_rate, self.steps_per_round)
        event = replace(self.full_release(self.noise_multiplier), sampled_by="server")
        # Each answer adds a share of noise: the variance of a release tells the cohort's size, and sampling hides nothing.
        if self.sampling_rate == 1.0 or self.mechanism.shares_noise:
            return event
        if self.cohort_cap:
            return replace(
                event,
                sampling="truncated-poisson",
                sampling_rate=self.sampling_rate,
                population=self.most_clients,
                sample_cap=self.cohort_cap,
            )
        return replace(event, sampling_rate=self.sampling_rate)

    def participations(self, rounds: int, *, repeated: int = 0) -> int:
        """How often one user can be in the training of so many rounds; by turns under DP-FTRL, in all of them otherwise.

        Args:
            rounds: Rounds that were asked for.
            repeated: How many of these were asked for again after an interruption: under DP-FTRL each is a turn more for
                the same users.
        """
        if not self.min_separation:
            return rounds
        steps = self.steps_per_round if self.mechanism.users_take_turns else 1
        again = repeated * math.ceil(steps / self.min_separation)
        return math.ceil((rounds - repeated) * steps / self.min_separation) + again

    def events(
        self, *, rounds: int | None = None, repeated: int = 0, released: Mapping[ReleaseName, int] | None = None
    ) -> list[Event]:
        """Everything released up to a round, for whoever does not know who took part.

        Args:
            rounds: Rounds of training that were asked for; by default all.
            repeated: How many of them were asked for again.
            released: How often each release was made; by default as often as is planned.
        """
        if not self.adds_noise:
            return []
        trained = self.participations(self.rounds if rounds is None else rounds, repeated=repeated)
        times = {one.name: one.times for one in self.releases} if released is None else released
        before = [event for name in release_names()[:-1] for event in self.release_events(name) * times.get(name, 0)]
        event = self.round_event()
        training = [replace(event, steps=event.steps * trained)] if trained else []
        return [*before, *training, *self.release_events(METRICS.name) * times.get(METRICS.name, 0)]

    @property
    def smallest_noise_multiplier(self) -> float:
        """The least noise in any release of the run over the bound on one contribution; what an owner's policy limits."""
        return min((event.noise_multiplier for event in self.events()), default=0.0)

    def seen_by(self, adversary: Adversary, events: Sequence[Event]) -> list[Event] | None:
        """The same events as one adversary sees them; None where nothing protects against it.

        Knowing who took part voids the amplification of clients drawn by the server, never that of users drawn inside a
        silo. Under `distributed` no adversary's bound is amplified (`round_event`). An active server meets the shares of the
        fewest honest clients whose sum it can open: of `smallest_active_sum` where contributions are masked, else of one.
        """
        if supported_claims.why_refused(
            unit=self.unit, mechanism=self.mechanism, secure_aggregation=self.secure_aggregation, adversary=adversary
        ) and not (self.mechanism.shares_noise and adversary == "active-server"):
            return None
        if adversary == "outsider":
            return list(events)
        known = with_known_participation(events)
        if self.smallest_active_sum and adversary == "active-server":
            part = min(1.0, self.smallest_active_sum * self.noise_share)
            return [replace(event, noise_multiplier=event.noise_multiplier * math.sqrt(part)) for event in known]
        if self.mechanism.shares_noise and adversary == "active-server":
            # One share is so small that the Skellam bound's lower-order terms would need the real scale; the Gaussian
            # of the same variance is what is left to say, and it is far from any protection.
            return [
                replace(
                    event,
                    noise_multiplier=event.noise_multiplier * math.sqrt(self.noise_share),
                    mechanism="gaussian",
                    l2_sensitivity=0.0,
                )
                for event in known
            ]
        return known

    def epsilon_against(self, adversary: Adversary, events: Sequence[Event]) -> float | None:
        """Upper bound on epsilon of some events against one adversary; None where nothing protects."""
        seen = self.seen_by(adversary, events)
        return None if seen is None else epsilon(seen, delta=self.delta, relation=self.relation)

    def epsilon_after(self, rounds: int, *, repeated: int = 0, released: Mapping[ReleaseName, int] | None = None) -> float:
        """Upper bound against the plan's own adversary after so many rounds and releases; infinite without noise.

        Args:
            rounds: Rounds of training that were asked for.
            repeated: How many of them were asked for again.
            released: How often each release was made; by default as often as is planned.
        """
        if not self.adds_noise:
            return math.inf
        events = self.events(rounds=rounds, repeated=repeated, released=released)
        spent = self.epsilon_against(self.adversary, events)  # type: ignore[arg-type]
        return math.inf if spent is None else spent
