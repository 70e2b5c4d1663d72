"""`Mechanism`: where noise is added, what is clipped, who draws, how a contribution travels.

| mechanism | one contribution | who adds noise | takes part |
|---|---|---|---|
| `none` | a client's sum | nobody | everybody |
| `dp-sgd` | one user's gradient in a silo's local step | the silo, at every step | users drawn by the silo |
| `dp-ftrl-silo` | the same | the silo, correlated over steps | groups of users in turn |
| `central` | one user's whole update | the server | clients drawn by the server |
| `dp-ftrl-central` | the same | the server, correlated over rounds | clients in turn |
| `distributed` | the same | every client a share | clients drawn by the server |

All other code asks a mechanism for what it needs to know and never for its name. A mechanism is a string too, so that it
travels, is stored and is read as its name. What never lives here: how much noise (`plan.py`), and which claims a mechanism
supports (`supported_claims.py`).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from shared.errors import ConfigError

NoiseBy = Literal["nobody", "silo", "server", "shares"]
Clipped = Literal["nothing", "gradients", "updates"]


class Mechanism(StrEnum):
    """One way from private values to a sum that may be seen.

    Attributes:
        noise_by: Who adds the noise.
        clipped: What is bounded: each unit's gradient of a local step, or one user's whole update.
        takes_turns: Whether noise is correlated over time and users or clients take part in turn (DP-FTRL).
    """

    noise_by: NoiseBy
    clipped: Clipped
    takes_turns: bool

    def __new__(cls, name: str, noise_by: NoiseBy, clipped: Clipped, takes_turns: bool) -> Mechanism:
        """A member: its name, and what it does."""
        member = str.__new__(cls, name)
        member._value_ = name
        member.noise_by, member.clipped, member.takes_turns = noise_by, clipped, takes_turns
        return member

    @classmethod
    def named(cls, name: str) -> Mechanism:
        """The mechanism of a name.

        Raises:
            ConfigError: If there is none.
        """
        for one in cls:
            if one == name:
                return one
        raise ConfigError(f"Expected a mechanism among {', '.join(cls)}, got '{name}'. Use one of them.")

    NONE = "none", "nobody", "nothing", False
    DP_SGD = "dp-sgd", "silo", "gradients", False
    DP_FTRL_SILO = "dp-ftrl-silo", "silo", "gradients", True
    CENTRAL = "central", "server", "updates", False
    DP_FTRL_CENTRAL = "dp-ftrl-central", "server", "updates", True
    DISTRIBUTED = "distributed", "shares", "updates", False

    @property
    def is_none(self) -> bool:
        """Whether nothing is clipped and nobody adds noise."""
        return self.noise_by == "nobody"

    @property
    def adds_noise_locally(self) -> bool:
        """Whether each silo adds all of its noise to each of its own releases."""
        return self.noise_by == "silo"

    @property
    def adds_noise_centrally(self) -> bool:
        """Whether the server adds the noise to the exact sum, which it then sees."""
        return self.noise_by == "server"

    @property
    def shares_noise(self) -> bool:
        """Whether each client adds a share of the noise, so that only a sum of enough of them is protected."""
        return self.noise_by == "shares"

    @property
    def clips_whole_updates(self) -> bool:
        """Whether a contribution is one user's whole update. It travels as integers modulo a power of two."""
        return self.clipped == "updates"

    @property
    def users_take_turns(self) -> bool:
        """Whether a silo's users take part in its local steps in turn."""
        return self.takes_turns and self.adds_noise_locally

    @property
    def clients_take_turns(self) -> bool:
        """Whether clients take part in the rounds in turn."""
        return self.takes_turns and self.clips_whole_updates

    @property
    def another_client_shows(self) -> bool:
        """Whether one more client changes what is seen of the others, so that it must stay when its user's data are removed.

        It moves the turns of all behind it, or adds a share of noise of its own.
        """
        return self.clients_take_turns or self.shares_noise
