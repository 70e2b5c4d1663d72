"""How long one silo's reply may be: bounds from public constants, so that no reply decides about the sum alone.

A silo's noised floats are added up in the open, and a mean over few silos follows whichever is longest. What an honest
silo sends is bounded by the plan and the optimizer: so many steps of gradients of length C over a public divisor, plus
noise of a known length. A server leaves a longer reply out and counts it, and the round goes on with the others; a node's
guard does not let one leave.
The bounds are generous, because a silo that keeps the protocol must never be left out; they stop replies that are wrong by
orders of magnitude, not a silo that lies within them.

Across devices there is nothing to check here: integers of single users are bounded when they are encoded, and modulo
2**bits every vector is a possible one.
"""

from __future__ import annotations

import math

from shared.config import TrainingSection
from shared.privacy.plan import PrivacyPlan

# Users of one silo over the expected number: silos differ in size, and the bound must hold for the largest.
_LARGEST_SILO = 8.0
# A sum of plain gradients of unit-length text vectors is far below this.
_PLAIN_GRADIENT = 1e3
# Adam moves a coordinate by at most (1 - beta1) / sqrt(1 - beta2) rates a step (Kingma and Ba 2015, section 2.1).
_ADAM_STEP = 0.1 / math.sqrt(0.001)
# A Gaussian vector's length lies below sqrt(n) + 8 standard deviations but once in 10**15 (Laurent and Massart 2000).
_TAIL = 8.0
# Correlated noise takes back what earlier steps added; its length is at most twice that of one sample.
_CORRELATED = 2.0


def longest_update(plan: PrivacyPlan, training: TrainingSection, *, size: int, adapter_norm: float) -> float:
    """The largest L2 norm that a silo's update of one round can have.

    Args:
        plan: Clip norm, noise, steps, divisor. (public)
        training: Optimizer and rates, resolved. (public)
        size: d, trained parameters.
        adapter_norm: L2 norm of the adapter that clients start from, which weight decay shortens. (public)
    """
    rate, steps = training.learning_rate, plan.steps_per_round
    decay = steps * rate * training.weight_decay * adapter_norm
    if training.optimizer == "adam":
        return steps * rate * _ADAM_STEP * math.sqrt(size) + decay
    if not plan.adds_noise_locally:
        return steps * rate * _PLAIN_GRADIENT + decay
    noise = _CORRELATED * plan.noise_stddev * (math.sqrt(size) + _TAIL) / plan.expected_batch_size
    return steps * rate * (_LARGEST_SILO * plan.l2_clip_norm + noise) + decay


def longest_count(plan: PrivacyPlan, *, size: int, noise_stddev: float) -> float:
    """The largest L2 norm of a silo's sum of vectors of which each user contributes one of norm <= 1.

    Args:
        plan: The population, a public constant; twice as many users are allowed for.
        size: Values of the sum.
        noise_stddev: The silo's own noise. (public)
    """
    return 2.0 * plan.population + noise_stddev * (math.sqrt(size) + _TAIL)
