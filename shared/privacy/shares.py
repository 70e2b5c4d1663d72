"""Noise in shares: for how many answers it is made, and whether secure sums can hide single shares at all.

Every client adds the same share of the noise, whoever drops out: the sum carries the noise of the plan as soon as
`survivors` answered, even if `colluding` of them tell what they added. A simulation whose sums are formed in the open takes
the same shares as a deployment that masks them, so that it shows what a deployment would release.

What never lives here: noise itself (`shared/secagg/encoding.py`), and how much of it a run needs (`calibration.py`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from shared.config import RunConfig
from shared.errors import ConfigError
from shared.secagg.parameters import Assumptions, Neighborhoods

_FEWEST_IN_A_SECURE_SUM = 3


@dataclass(frozen=True)
class Shares:
    """How the noise of a sum is shared. (public)

    Attributes:
        survivors: t, the fixed number of answers that the shares are made for; a sum of fewer is not opened.
        colluding: c, clients among them whose shares do not count. A share is 1 / (t - c) of the variance.
    """

    survivors: int
    colluding: int


def shares_of(config: RunConfig, *, num_clients: int, sampling_rate: float, masked: bool) -> Shares:
    """The shares of a run: its survivors are three standard deviations below the cohort, less those that may drop out.

    No fewer clients collude than secure sums assume to tell all they know. Statistics ask all clients, so that is a part of
    all, whatever a round's cohort is.

    Args:
        config: `[privacy]`, `[federation]` and `[secure_aggregation]`. (public)
        num_clients: A public constant.
        sampling_rate: Probability that a client is asked in a round. (public)
        masked: Whether every client masks its contributions. What neighborhoods need is then tried out here, before any
            client is asked for anything.

    Raises:
        ConfigError: If there are too few clients, too many, or no neighborhood is large enough.
    """
    assumed = config.secure_aggregation
    expected = sampling_rate * num_clients
    if masked:
        for asked in (round(expected), num_clients):  # in a round, and for statistics
            Neighborhoods.derive(asked, Assumptions.of(assumed))
    low = math.floor((expected - 3 * math.sqrt(expected * (1 - sampling_rate))) * (1 - assumed.dropout_fraction) + 1e-9)
    survivors = config.federation.minimum_clients or max(min(_FEWEST_IN_A_SECURE_SUM, num_clients), low)
    colluding = max(config.privacy.colluding_clients, math.ceil(assumed.corrupt_fraction * num_clients - 1e-9))
    if survivors <= colluding or survivors > num_clients:
        raise ConfigError(
            f"Expected privacy.colluding_clients < survivors <= number of clients, got colluding_clients={colluding}, "
            f"survivors={survivors}, clients={num_clients}. Expect a larger cohort, or assume fewer corrupt clients "
            "(secure_aggregation.corrupt_fraction)."
        )
    if masked and survivors < _FEWEST_IN_A_SECURE_SUM:
        raise ConfigError(
            f"Expected federation.minimum_clients >= {_FEWEST_IN_A_SECURE_SUM} with secure_aggregation.simulate=full, got "
            f"{survivors}. A sum of one contribution hides nothing; set it to 0, or to more."
        )
    return Shares(survivors, colluding)


def trusted_server(config: RunConfig, *, num_clients: int) -> str | None:
    """What to say of a server that adds the noise because it cannot come in shares; None where it can.

    Args:
        config: What is wanted. (public)
        num_clients: A public constant.
    """
    why = why_not_in_shares(config, num_clients=num_clients)
    if why is None:
        return None
    return f"The server adds the noise and has to be trusted, because noise cannot come in shares. {why}"


def why_not_in_shares(config: RunConfig, *, num_clients: int) -> str | None:
    """Why the noise of a federation across devices cannot come in shares behind secure sums; None where it can.

    It does not ask whether the run is a simulation: what a simulation shows is what a deployment can do.

    Args:
        config: What is wanted. (public)
        num_clients: A public constant.
    """
    if config.why_noise_by_the_server is not None:
        return config.why_noise_by_the_server
    rate = min(1.0, (config.privacy.expected_cohort or num_clients) / num_clients)
    try:
        shares_of(config, num_clients=num_clients, sampling_rate=rate, masked=True)
    except ConfigError as error:
        return f"Secure sums cannot be formed here: {error}"
    return None
