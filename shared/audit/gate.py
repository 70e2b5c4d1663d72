"""When an audit fails: a lower bound above its claim, or a probe that a correct run almost never triggers.

All tests of one audit together are wrong about a correct run with probability at most `LEVEL`: each gets an equal part of it
(Bonferroni). How many there are is fixed with the protocol, before anything is measured.
"""

from __future__ import annotations

LEVEL = 0.05


def level_of_each(tests: int) -> float:
    """What each of so many gating tests may be wrong with."""
    return LEVEL / max(tests, 1)
