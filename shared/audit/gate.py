"""When an audit fails: a lower bound above its claim, or a probe that a correct run almost never triggers.

All tests of one audit together are wrong about a correct run with probability at most `LEVEL`. The lower bounds get one half
of it and the probes the other, and each test an equal part (Bonferroni).
"""

from __future__ import annotations

LEVEL = 0.05


def level_of_each(tests: int) -> float:
    """What each of so many bounds, or of so many probes, may be wrong with."""
    return LEVEL / 2.0 / max(tests, 1)
