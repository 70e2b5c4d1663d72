"""What fits a population: every `auto` that decides which parts a run has, from public facts alone.

The rule reads how many users and clients there are (public constants), epsilon and the mechanism; never data. It is the same
on the server and on every device, which each hold it against the plan. How the budget is divided among the parts is
`shared/privacy/division.py`'s; how large a statistic is, `shared/statistics.py`'s.
"""

from __future__ import annotations

from shared.config import RunConfig, Scalar

# Below so many users statistics of pairs say nothing that the prior does not.
_FEWEST_USERS = 30


def fitted(config: RunConfig, *, num_users: int, num_clients: int) -> RunConfig:
    """The configuration with rounds and statistics decided; applied again it changes nothing.

    Args:
        config: What is wanted. (public)
        num_users: Users, a public constant.
        num_clients: Clients, a public constant.
    """
    decided: dict[str, Scalar] = {}
    if config.statistics.names() is None:
        enough = num_users >= _FEWEST_USERS
        decided["statistics.releases"] = "pairs,transitions,blending,selection" if enough else "none"
    if config.federation.rounds == "auto":
        decided["federation.rounds"] = 0
    return config.with_values(decided) if decided else config
