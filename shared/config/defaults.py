"""What fits a population: every `auto` that decides which parts a run has, and who adds its noise, from public facts alone.

The rule reads how many users and clients there are (public constants), epsilon and the mechanism; never data. It is the same
on the server and on every device, which each hold it against the plan. How the budget is divided among the parts is
`shared/privacy/division.py`'s; how large a statistic is, `shared/model/statistics.py`'s.
"""

from __future__ import annotations

import math
from functools import lru_cache

from shared.config import RunConfig, Scalar
from shared.errors import EpsilonOutOfReach
from shared.privacy.accounting import calibrate
from shared.privacy.events import Event
from shared.privacy.mechanism import Mechanism
from shared.privacy.population import default_delta
from shared.privacy.shares import why_not_in_shares

# So many users to one standard deviation of a single release's noise; below, statistics say less than the prior that the
# same budget buys. Weights of text and prior are learned there too.
_FEWEST_USERS = 450.0


@lru_cache(maxsize=64)  # asked for with every message, and the noise is a search
def fitted(config: RunConfig, *, num_users: int, num_clients: int) -> RunConfig:
    """The configuration with rounds, statistics and mechanism decided; applied again it changes nothing.

    Across devices noise comes in shares, so that secure sums keep single contributions from the server. The server adds it
    only where that cannot be (`shares.why_not_in_shares`). Where masks are asked for they are never left out: the plan
    refuses then, with the reason.

    Args:
        config: What is wanted. (public)
        num_users: Users, a public constant.
        num_clients: Clients, a public constant.
    """
    decided: dict[str, Scalar] = {}
    if config.statistics.names() is None:
        decided["statistics.releases"] = _statistics(config, num_users, num_clients)
    if config.federation.rounds == "auto":
        decided["federation.rounds"] = 0
    if config.is_private and config.one_user_a_client and config.privacy.mechanism == "auto":
        decided["privacy.mechanism"] = str(_across_devices(config, num_clients))
    return config.with_values(decided) if decided else config


def _across_devices(config: RunConfig, num_clients: int) -> Mechanism:
    if config.mechanism.shares_noise and config.secure_aggregation.simulate == "full":
        return Mechanism.DISTRIBUTED
    return Mechanism.CENTRAL if why_not_in_shares(config, num_clients=num_clients) else Mechanism.DISTRIBUTED


def _statistics(config: RunConfig, num_users: int, num_clients: int) -> str:
    if not config.is_private:
        return "pairs,transitions,blending,selection"
    delta = config.privacy.delta or default_delta(num_users)
    try:
        noise = calibrate(lambda multiplier: [Event(multiplier)], target_epsilon=config.privacy.epsilon, delta=delta)
    except EpsilonOutOfReach:  # the plan says so, with its settings
        return "blending"
    adders = 1 if config.mechanism.clips_whole_updates else num_clients
    enough = num_users >= _FEWEST_USERS * noise * math.sqrt(adders)
    return "pairs,transitions,refinement,blending,selection" if enough else "blending"
