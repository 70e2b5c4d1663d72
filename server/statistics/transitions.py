"""Transitions: the map from the direction of the last items to that of the next one (`server/denoising.py`)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from server.denoising import transition
from server.statistics.statistic import Basis, Learned, Total


class Transitions:
    """What the last items say about the next one."""

    name = "transitions"

    def learn(self, total: Total, learned: Learned, basis: Basis) -> Learned:
        """As `Statistic.learn`."""
        values, stddev = total.values, total.noise_stddev
        every = np.concatenate([basis.content, learned.directions], axis=1)
        mapped = transition(values, noise_stddev=stddev, directions=every, popularity=learned.counts)
        return replace(learned, transition=mapped)
