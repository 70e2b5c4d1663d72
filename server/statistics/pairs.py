"""Pairs: factors of items from the noised pairs of the head (`server/denoising.py`)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from server.denoising import Denoised, factor_directions, pair_factors
from server.statistics.statistic import Basis, Floats, Learned, Total


@dataclass(frozen=True, eq=False)
class Pairs:
    """Which two items stand near one another in histories."""

    name = "pairs"
    _latest: list[tuple[Floats, Floats, Denoised]] = field(default_factory=list, repr=False)

    def learn(self, total: Total, learned: Learned, basis: Basis) -> Learned:
        """As `Statistic.learn`."""
        factors = self._factors(total, learned, basis)
        if basis.keeps_directions:
            return replace(learned, factors=factors)
        own, size = factors.values.astype(np.float64), basis.factor_dimensions
        directions = factor_directions(own, dimensions=size, like=basis.content, popularity=learned.counts)
        return replace(learned, factors=factors, directions=directions)

    def _factors(self, total: Total, learned: Learned, basis: Basis) -> Denoised:
        """Factors of the items; those of the same release are not worked out again, which for a large head takes long."""
        for values, popularity, known in self._latest:
            if np.array_equal(values, total.values) and np.array_equal(popularity, learned.counts):
                return known
        texts = basis.recommender.attached.model.centered_texts.double().cpu().numpy()
        found = pair_factors(
            total.values, noise_stddev=total.noise_stddev, head=basis.head, popularity=learned.counts, texts=texts
        )
        self._latest[:] = [(total.values, learned.counts, found)]
        return found
