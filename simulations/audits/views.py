"""What one adversary reads off noised sums: linear algebra on what is left when all known contributions are taken away.

The adversary knows everybody but the canaries' coins, so it subtracts the others' exact sum. What is left of a release is

    left = sum over canaries in of v + noise

with the canaries' known vectors v. Over the whole run two things say all about the coins: the Gram matrix of the vectors and
their inner products with what is left, both over the variance of the noise. Scores are the best linear guess from these
(`scores`). What is left when the canaries are taken away too has to be noise.

What never lives here: where sums and vectors come from (`witness.py`), and bounds (`shared/audit/`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, sparse

from simulations.audits.directions import Directions, Floats, Matrix, Weighted

# Readings of a sum that are kept to compare its noise with another's.
KEPT = 2048
# The coins' variance, over which the noise of a score is weighed.
_OF_A_COIN = 0.25


@dataclass(frozen=True)
class Class:
    """What canaries of one kind added to a release.

    Attributes:
        factor: How often they are in the sum, by least squares; 1 if they are as they should be.
        error: Standard error of `factor` under the claimed noise.
        norm: The largest length of the vector of one that is in.
    """

    factor: float
    error: float
    norm: float


@dataclass(frozen=True, eq=False)
class Release:
    """What one release showed.

    Attributes:
        purpose, round_number: Which.
        values: Values of a contribution.
        noise_stddev: Claimed of each part, in the unit of the sum; 0: exact.
        guessed: Whether the one-shot estimate rests on it.
        samples: Directions, over all parts, that nobody used.
        total: Sum of the squared readings along them, over the claimed variance.
        short, long: What canaries added; None where there is none, or nothing of theirs.
        noise: For each part up to KEPT readings, over the claimed noise.
    """

    purpose: str
    round_number: int
    values: int
    noise_stddev: float
    guessed: bool
    samples: int
    total: float
    short: Class | None
    long: Class | None
    noise: list[Floats]


@dataclass(eq=False)
class View:
    """What one adversary saw of a run.

    Attributes:
        name: `sums`, or `replies`.
        included: (m,), the coins.
        long: (m,), which canaries have long histories.
        gram: (m, m) of the canaries' vectors over the claimed variances, added up over releases.
        linear: (m,) inner products with what was left, likewise.
        odds: (m,) likelihood ratios of releases for which it is not known who was drawn, as logarithms.
        releases: What each showed.
    """

    name: str
    included: NDArray[np.bool_]
    long: NDArray[np.bool_]
    gram: Floats = field(init=False)
    linear: Floats = field(init=False)
    odds: Floats = field(init=False)
    releases: list[Release] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.gram = np.zeros((len(self.included), len(self.included)))
        self.linear = np.zeros(len(self.included))
        self.odds = np.zeros(len(self.included))

    def add(
        self,
        purpose: str,
        round_number: int,
        directions: Directions | Weighted,
        left: list[Floats],
        parts: list[NDArray[np.int64]],
        *,
        noise_stddev: float,
        guessed: bool = True,
        estimated: bool = True,
    ) -> None:
        """Reads one release.

        Args:
            purpose: Which.
            round_number: Of its state.
            directions: (m, size) of all canaries.
            left: Each part's sum without all but the canaries, (size,).
            parts: The canaries that may be in each part.
            noise_stddev: Claimed of each part.
            guessed: Whether the adversary knows the vectors, so that its guesses can rest on them.
            estimated: Whether one user at the bound can be in it as a whole, so that the one-shot estimate rests on it.
        """
        unit = noise_stddev or 1.0
        rows, norms = directions.rows, directions.norms
        total, samples, noise = 0.0, 0, []
        normal, right = np.zeros((2, 2)), np.zeros(2)
        for own, members, along, both in self._along(rows, left, parts):
            if guessed:
                chosen = np.ix_(members, members) if len(members) < len(self.included) else (slice(None), slice(None))
                self.gram[chosen] += directions.gram[chosen] / unit**2
                self.linear[members] += along / unit**2
            own_normal, own_right = both @ both.T / unit**2, both @ own / unit**2
            normal, right = normal + own_normal, right + own_right
            rest = (own - np.linalg.pinv(own_normal, rcond=1e-10, hermitian=True) @ own_right @ both) / unit
            total += float(rest @ rest)
            samples += len(rest) - int(np.linalg.matrix_rank(own_normal, hermitian=True))
            noise.append(_kept(rest))
        solved = np.asarray(np.linalg.pinv(normal, rcond=1e-10, hermitian=True), dtype=np.float64)
        classes = [
            self._class(place, solved, right, norms[self.included & (self.long == of_long)])
            for place, of_long in enumerate((False, True))
        ]
        values = rows.shape[1]
        self.releases.append(
            Release(
                purpose,
                round_number,
                values,
                noise_stddev,
                guessed and estimated,
                max(samples, 0),
                total,
                classes[0],
                classes[1],
                noise,
            )
        )

    def scores(self) -> Floats:
        """For each canary the logarithm of how much likelier it is in than out, (m,), by the best linear guess.

        Nothing but the releases and what is public of the canaries is in a score: no coin is.

        Source:
            Linear minimum mean square error; with orthogonal canaries it is the likelihood ratio.
        """
        spread = self.gram + np.eye(len(self.included)) / _OF_A_COIN
        factor, failed = linalg.lapack.dpotrf(spread.T)
        # Of a release almost without noise rounding may leave a matrix that is not positive.
        inverse = np.linalg.pinv(spread, hermitian=True) if failed else linalg.lapack.dpotri(factor, overwrite_c=True)[0]
        guesses = linalg.blas.dsymv(1.0, inverse, self.linear - self.gram.sum(axis=1) / 2.0)  # reads the upper half alone
        # What is not known of a coin, over its variance: the diagonal of I - inverse @ gram.
        unknown = np.diagonal(inverse) / _OF_A_COIN
        return np.asarray(guesses / _OF_A_COIN / np.maximum(unknown, 1e-12)) + self.odds

    def _along(
        self, rows: Matrix, left: list[Floats], parts: list[NDArray[np.int64]]
    ) -> Iterator[tuple[Floats, NDArray[np.int64], Floats, Floats]]:
        """Of each part what is left, its canaries, what is left along each of them, and `both`.

        Both are the sums of the vectors of those that are in, (2, size): of short histories, and of long ones.
        """
        kinds = np.zeros((len(parts), 2, len(self.included)))
        for place, members in enumerate(parts):
            kinds[place, self.long[members].astype(np.int64), members] = self.included[members]
        if sparse.issparse(rows):
            for place, (own, members) in enumerate(zip(left, parts, strict=True)):
                mine = rows if len(members) == len(self.included) else rows[members]
                yield own, members, np.asarray(mine @ own), np.asarray(kinds[place][:, members] @ mine)
            return
        # All parts at once: the rows of a part would be copied.
        along, sums = rows @ np.stack(left).T, (kinds.reshape(-1, len(self.included)) @ rows).reshape(len(parts), 2, -1)
        for place, (own, members) in enumerate(zip(left, parts, strict=True)):
            yield own, members, along[members, place], sums[place]

    @staticmethod
    def _class(place: int, solved: Floats, right: Floats, norms: Floats) -> Class | None:
        variance = float(solved[place, place])
        if not len(norms) or not variance > 0.0 or not norms.max() > 0.0:
            return None
        return Class(float(solved[place] @ right), math.sqrt(variance), float(norms.max()))


def independence(parts: list[tuple[Floats, Floats]]) -> tuple[int, float]:
    """Whether pairs of noises are drawn independently, all pairs together.

    Returns:
        The number of products, and their sum over its standard deviation: standard normal where all are independent.
    """
    products = sum(float(first @ second) for first, second in parts)
    variance = sum(float(first @ first) * float(second @ second) / len(first) for first, second in parts)
    return sum(len(first) for first, _ in parts), products / math.sqrt(variance) if variance > 0.0 else 0.0


def unusual(scores: Floats) -> Floats:
    """How far each score lies above what its row and its column let expect; 0 where one is no number.

    Args:
        scores: (F, I) of every item after each of some items.
    """
    usual = scores.mean(axis=0) + scores.mean(axis=1, keepdims=True) - scores.mean()
    return np.asarray(np.nan_to_num(scores - usual))


def _kept(rest: Floats) -> Floats:
    """The same evenly spread readings of every sum of a size."""
    return rest[np.linspace(0, len(rest) - 1, min(KEPT, len(rest))).astype(np.int64)]
