"""How many users and clients there are, as public constants: what every delta, rate and divisor follows from.

Neighboring populations differ by one user, so an exact count tells them apart by itself. A plan is made from a number that
is declared; where none is declared, from the number found, rounded down to two significant digits. Rounding hides one user
except at a boundary (949 and 950 differ): only a declared number is independent of the data.

What never lives here: the exact count's own places, which are the research record and the folder of the population.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

# Below, two significant digits are the number itself.
_SMALLEST_ROUNDED = 100
# A declared number may be this far from the one found.
TOLERANCE = 2


@dataclass(frozen=True)
class PublicSize:
    """What a plan knows of a population. (public)

    Attributes:
        users: Declared, or rounded.
        clients: The same number where every user is a client; else the number of silos, which is public anyway.
    """

    users: int
    clients: int

    @classmethod
    def of(cls, num_users: int, num_clients: int, *, declared: int = 0) -> PublicSize:
        """The public constants of a population.

        Guarantee:
            The result holds num_users only as far as `rounded` tells it, and not at all where a number is declared. Applied
            to its own result it changes nothing.

        Args:
            num_users: Users found, or public already. (private)
            num_clients: Clients; equal to num_users where every user is one. (private if so)
            declared: `privacy.population`; 0 where none is declared. (public)
        """
        users = declared or rounded(num_users)
        return cls(users, users if num_clients == num_users else num_clients)


def default_delta(num_units: int) -> float:
    """1 / (10 x number of units), rounded down to a power of ten; a unit is a user, or a window of one."""
    return 10.0 ** math.floor(-math.log10(10 * num_units) + 1e-9)


def rounded(number: int) -> int:
    """A number rounded down to two significant digits; below 100 it is the number itself."""
    step = _step(number)
    return number // step * step


def largest_rounded_to(number: int) -> int:
    """The largest number that `rounded` makes of it: what may be found where this one is public."""
    step = _step(number)
    return (number // step + 1) * step - 1


def _step(number: int) -> int:
    """The unit of a number's second significant digit."""
    return int(10 ** max(len(str(number)) - 2, 0))


def advice(num_users: int, *, declared: int) -> str | None:
    """What to tell the person who looks at the data themselves; never part of anything that is released.

    Args:
        num_users: Users found. (private)
        declared: `privacy.population`; 0 where none is declared. (public)
    """
    if not declared and num_users < _SMALLEST_ROUNDED:
        return (
            f"With fewer than {_SMALLEST_ROUNDED} users their exact number is in the plan and the release report, and tells "
            "whether one user more was there. Declare a number: --population."
        )
    if declared and not declared <= TOLERANCE * num_users <= TOLERANCE**2 * declared:
        return (
            f"The declared population of {declared:,} is more than a factor {TOLERANCE} away from the {num_users:,} users "
            "found. Delta, rates and divisors follow from the declared one."
        )
    return None
