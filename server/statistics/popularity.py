"""Popularity: the prior, and counts that are raised above their noise."""

from __future__ import annotations

from dataclasses import replace

from server.aggregation import popularity_prior, raised_counts
from server.statistics.statistic import Basis, Learned, Total


class Popularity:
    """How often each item was used."""

    name = "popularity"

    def learn(self, total: Total, learned: Learned, basis: Basis) -> Learned:
        """As `Statistic.learn`."""
        values, stddev = total.values, total.noise_stddev
        return replace(
            learned,
            log_prior=popularity_prior(values, noise_stddev=stddev),
            counts=raised_counts(values, noise_stddev=stddev),
        )
