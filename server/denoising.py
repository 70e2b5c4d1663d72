"""From noised statistics to what the recommender scores with: post-processing of released values, which costs nothing.

No function here has a private argument: each takes noised sums, the standard deviation of their noise, and public facts (the
catalog's texts). What is subtracted, shrunk and scaled follows from these alone, so nothing is tuned on private data.

    pairs        subtract what popularity explains; a Gaussian prior of covariance s^2 K x K on the rest, where
                 K = D (a T + (1 - a) I) D, D a power of the noised popularity and T the similarity of texts; s by maximum
                 likelihood of the release itself; posterior mean; factors of the items from its leading directions, and by
                 the same kernel from their texts for all other items
    directions   the factors' principal directions under the noised popularity, each scaled to the same variance
    transitions  the covariance of directions under the noised popularity stands for the second moments of what was used; a
                 Gaussian prior of that covariance on the cross moments, its scale by maximum likelihood; ridge regression
    blending     one Newton step, as a posterior mean around the default weights and curvatures: under large noise the
                 weights hardly move
    selection    the best candidate by its noised gain

With no noise a posterior mean is the statistic itself; noise alone has no evidence, and what is left is text and popularity.

The powers of popularity are set and not found by likelihood. What is left of a pair after subtraction varies about as its
expected count does, a power of 1/2 in D. The likelihood prefers 1, because the few pairs of the most popular items dominate
it, and what users choose next is then predicted worse at every noise: on ml-100k at a noise of .6, by .06 nats a user and
test NDCG@10 .076 instead of .086. Dividing by a power of .6 in place of .5 makes rarer items count more likewise.

Source:
    Krichene, Mayoraz, Rendle et al. 2023, "Multi-Task Differential Privacy Under Distribution Skew", and McSherry and
    Mironov 2009, "Differentially Private Recommender Systems", for releasing second-order statistics; Steck 2019,
    "Embarrassingly Shallow Autoencoders for Sparse Data", for the regularized inverse; Dwork and Roth 2014, Prop. 2.1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from shared.model.statistics import RANK_OF_PAIRS, TEXT_SHARE, text_regression
from shared.privacy.releases import BLENDING_BOUND, HESSIAN_SCALE

Floats = NDArray[np.float64]

# Less of a gain in twice the log likelihood is what noise alone gives now and then: the release says nothing.
_LEAST_EVIDENCE = 6.0
# Keeps the posterior of an exact statistic defined.
_LEAST_VARIANCE = 1e-9
# Powers of popularity: of the prior of pairs, and of what pairs are divided by before they become factors.
_PRIOR_POWER, _FACTOR_POWER = 0.4, 0.6
# Ridge of the factors over the largest eigenvalue of the normalized posterior.
_FACTOR_RIDGE = 0.5
# Directions of the factors that vary less, over the most varied one, are not scaled up any further.
_LEAST_VARIATION = 1e-4
# Of the mean loss of a user in a direction of the weights; how far an expected curvature may be wrong, as a part of it.
_LEAST_CURVATURE, _CURVATURE_SPREAD = 1e-4, 0.5
# Ridge of the regression on directions, over the mean eigenvalue of their covariance.
_RIDGE = 0.1


@dataclass(frozen=True, eq=False)
class Denoised:
    """What a release says.

    Attributes:
        values: Float32: factors of items (I, r), or a map (D, D); scaled so that the score of a popular item has a standard
            deviation of 1 over the catalog.
        signal: In [0, 1], the share of its own standard deviation that the noise leaves; 0 where there is no evidence that
            the release is more than noise.
    """

    values: NDArray[np.float32]
    signal: float


def pair_factors(
    total: Floats, *, noise_stddev: float, head: NDArray[np.int64], popularity: Floats, texts: Floats
) -> Denoised:
    """Factors of all items from the noised pairs of the head.

    Args:
        total: (H (H - 1) / 2,) noised sum, rows of the upper triangle. (public)
        noise_stddev: Of the noise in each value; 0 for an exact sum. (public)
        head: (H,) its items, ascending. (public)
        popularity: (I,) noised counts, positive. (public)
        texts: (I, D) directions of the items' texts, rows of norm 1 or 0. (public)
    """
    size = len(head)
    counts, own = popularity[head], texts[head]
    posterior, signal = _posterior(_symmetric(total, size), max(noise_stddev**2, _LEAST_VARIANCE), counts, own @ own.T)
    found = _factors(posterior, counts)
    factors = np.zeros((len(popularity), found.shape[1]))
    factors[head] = found
    rest = np.setdiff1d(np.arange(len(popularity)), head)
    if len(rest):
        known = np.sqrt(popularity[rest] / (popularity[rest] + 1.0))
        factors[rest] = text_regression(own, found, texts[rest]) * known[:, None]
    factors /= math.sqrt(_unit(factors, factors, popularity))
    return Denoised(factors.astype(np.float32), signal)


def factor_directions(factors: Floats, *, dimensions: int, like: Floats, popularity: Floats) -> NDArray[np.float32]:
    """What factors add to the directions between which transitions are counted, (I, D2).

    Args:
        factors: (I, r). (public)
        dimensions: D2; where the factors have fewer, the rest is zero.
        like: (I, D1) directions of texts, beside which these are of the same length on average. (public)
        popularity: (I,) noised counts, positive. (public)
    """
    share = popularity / popularity.sum()
    centered = factors - share @ factors
    values, axes = np.linalg.eigh((centered.T * share) @ centered)
    values, axes = values[::-1][:dimensions], axes[:, ::-1][:, :dimensions]
    found = np.zeros((len(factors), dimensions))
    if len(values) and values[0] > 0.0:
        found[:, : len(values)] = centered @ (axes / np.sqrt(np.maximum(values, _LEAST_VARIATION * values[0])))
    lengths = [math.sqrt(float(share @ (own**2).sum(axis=1))) for own in (like, found)]
    result: NDArray[np.float32] = (found * (lengths[0] / max(lengths[1], 1e-150))).astype(np.float32)
    return result


def transition(total: Floats, *, noise_stddev: float, directions: Floats, popularity: Floats) -> Denoised:
    """The map from the direction of the last items to that of the next one, (D, D).

    Args:
        total: (D^2,) noised sum of cross moments f y'. (public)
        noise_stddev: Of the noise in each value. (public)
        directions: (I, D) of every item: whitened texts, factors. (public)
        popularity: (I,) noised counts, positive. (public)
    """
    dimensions = directions.shape[1]
    cross = total.reshape(dimensions, dimensions)
    share = popularity / popularity.sum()
    centered = directions - share @ directions
    covariance = dimensions * (centered.T * share) @ centered
    values, axes = np.linalg.eigh(covariance)
    values = np.maximum(values, 1e-3 * values.max())
    along = (cross * covariance).sum() / (covariance**2).sum()
    turned = axes.T @ (cross - along * covariance) @ axes
    variance = max(noise_stddev**2, _LEAST_VARIANCE)
    prior = np.outer(values, values)
    scale, evidence = _likeliest_scale(turned**2, prior, variance)
    kept = scale * prior / (scale * prior + variance)
    found = axes @ (kept * turned) @ axes.T
    inverse = axes / (values + _RIDGE * values.mean()) @ axes.T
    learned = inverse @ found @ inverse
    learned /= _unit(directions @ learned, directions, popularity)
    return Denoised(learned.astype(np.float32), _signal(kept, prior, evidence))


@dataclass(frozen=True, eq=False)
class Step:
    """One Newton step of the weights.

    Attributes:
        weights: (K,) the posterior mean.
        promise: (K,) what each score is predicted to gain at its weight, in twice the log likelihood a user.
    """

    weights: Floats
    promise: Floats


def blended(
    total: Floats,
    *,
    noise_stddev: float,
    users: float,
    weights: Floats,
    defaults: Floats,
    spread: Floats,
    curvature: Floats,
) -> Step:
    """The weights after one Newton step, as a posterior mean under a Gaussian prior around the defaults.

    The Hessian is a posterior mean too, around what is known of many populations: eigenvalues of noise are as large as the
    noise, and taken for curvature they would let the weights follow a gradient that is noise.

    Args:
        total: (K (K + 3) / 2,) noised sum of clipped gradients and scaled Hessians over `BLENDING_BOUND`. (public)
        noise_stddev: Of the noise in each value. (public)
        users: How many there are, a public constant.
        weights: (K,) where the step starts. (public)
        defaults: (K,) the prior's mean. (public)
        spread: (K,) its standard deviations, not negative; where it is 0 a weight stays at its default. (public)
        curvature: (K,) expected second derivatives of a user's loss, positive. (public)
    """
    number = len(weights)
    means, noise = total * BLENDING_BOUND / users, noise_stddev * BLENDING_BOUND / users
    hessian = np.zeros((number, number))
    hessian[np.triu_indices(number)] = means[number:] / HESSIAN_SCALE
    hessian += np.triu(hessian, 1).T
    known = _CURVATURE_SPREAD**2 * np.outer(curvature, curvature)
    hessian -= np.diag(curvature)
    hessian *= known / (known + (noise / HESSIAN_SCALE) ** 2)
    hessian += np.diag(curvature)
    # A score that does not count says nothing: its row is noise, and mixed with the others it would make them look flat.
    free = np.flatnonzero(spread > 0.0)
    moved, promise = defaults.astype(np.float64), np.zeros(number)
    if len(free):
        own = means[:number][free], hessian[np.ix_(free, free)], weights[free], defaults[free], spread[free]
        moved[free], promise[free] = _newton(*own, noise=noise, users=users)
    return Step(moved, promise)


def _newton(
    gradient: Floats, hessian: Floats, weights: Floats, defaults: Floats, spread: Floats, *, noise: float, users: float
) -> tuple[Floats, Floats]:
    """Weights after a step, and what each promises."""
    number = len(weights)
    values, directions = np.linalg.eigh(hessian)
    hessian = directions * np.maximum(values, _LEAST_CURVATURE + min(noise, 0.1 * float(values.max()))) @ directions.T
    # The gradient is hessian (w* - w) up to the noise and the sampling of users.
    error = noise**2 * np.eye(number) + hessian / users
    precision = hessian @ np.linalg.solve(error, hessian) + np.diag(spread**-2.0)
    aim = hessian @ np.linalg.solve(error, gradient + hessian @ weights) + defaults / spread**2
    moved = np.linalg.solve(precision, aim)
    return moved, np.maximum(moved, 0.0) ** 2 / np.diag(np.linalg.inv(hessian))


def _symmetric(triangle: Floats, size: int) -> Floats:
    """(H, H) from the rows of its upper triangle; zero on the diagonal."""
    whole, start = np.zeros((size, size)), 0
    for row in range(size - 1):  # without the indices of the whole triangle, which are twice as large
        end = start + size - 1 - row
        whole[row, row + 1 :] = whole[row + 1 :, row] = triangle[start:end]
        start = end
    return whole


def _posterior(noisy: Floats, variance: float, counts: Floats, similarity: Floats) -> tuple[Floats, float]:
    """Posterior mean of what popularity leaves, (H, H), and its signal; both matrices are overwritten.

    A head of thousands makes each matrix tens of megabytes, so what is no longer needed makes room
    (`shared/model/memory.py`).
    """
    expected = np.outer(counts, counts)
    np.fill_diagonal(expected, 0.0)
    expected *= -(noisy * expected).sum() / max((expected**2).sum(), 1e-300)
    noisy += expected
    del expected
    scale = (counts / counts.max()) ** _PRIOR_POWER
    similarity *= TEXT_SHARE
    similarity[np.diag_indices_from(similarity)] += 1.0 - TEXT_SHARE
    similarity *= scale[:, None]
    similarity *= scale
    values, directions = np.linalg.eigh(similarity)
    values = np.maximum(values, 0.0)
    turned = np.matmul(np.matmul(directions.T, noisy, out=similarity), directions, out=noisy)
    prior = np.outer(values, values)
    found, evidence = _likeliest_scale(np.square(turned, out=similarity), prior, variance)
    kept = found * prior
    kept /= kept + variance
    signal = _signal(kept, prior, evidence)
    kept *= turned
    return np.matmul(np.matmul(directions, kept, out=prior), directions.T, out=kept), signal


def _signal(kept: Floats, prior: Floats, evidence: float) -> float:
    return math.sqrt(float((kept * prior).sum() / prior.sum())) if evidence >= _LEAST_EVIDENCE else 0.0


def _likeliest_scale(squares: Floats, prior: Floats, variance: float) -> tuple[float, float]:
    """The scale s of N(0, s prior + variance) that makes independent values likeliest, and what it gains over s = 0.

    The gain is in twice the log likelihood.
    """

    def cost(log_scale: float) -> float:
        total = math.exp(log_scale) * prior
        total += variance
        found = squares / total
        found += np.log(total, out=total)
        return float(found.sum())

    top = math.log(squares.sum() / prior.sum() + 1e-12)
    found = minimize_scalar(cost, bounds=(top - 9.0, top + 3.0), method="bounded", options={"xatol": 0.1})
    return math.exp(found.x), float((math.log(variance) + squares / variance).sum() - found.fun)


def _factors(posterior: Floats, counts: Floats) -> Floats:
    """(H, r): the regularized inverse of the posterior, normalized by popularity, by its leading directions."""
    weight = (counts + 1.0) ** -_FACTOR_POWER
    normalized = weight[:, None] * posterior
    normalized *= weight
    np.fill_diagonal(normalized, 0.0)
    values, directions = np.linalg.eigh((normalized + normalized.T) / 2.0)
    kept = np.argsort(-values)[:RANK_OF_PAIRS]
    ridge = _FACTOR_RIDGE * max(float(values.max()), 1e-12)
    positive = np.maximum(values[kept], 0.0)
    result: Floats = directions[:, kept] * np.sqrt(positive / (positive + ridge))
    return result


def _unit(left: Floats, right: Floats, popularity: Floats) -> float:
    """Standard deviation over the catalog of the score of a popular item, both by popularity; never 0."""
    share = popularity / popularity.sum()
    centered = right - share @ right
    covariance = (centered.T * share) @ centered
    return math.sqrt(max(float((share * ((left @ covariance) * left).sum(axis=1)).sum()), 1e-30))
