"""Reconstruction: which items a made-up user's contribution gives away, alone, in sums, and under the run's noise.

Here it is the contribution to the popularity, which every run asks for and in which an item is a coordinate; it is made,
noised and encoded by the clients' own code. Who sees it takes the largest values for the items. Plain contributions must
give everything away, or the attack would show nothing; so must the union of the items in small plain sums. Under the full
noise of a sum, and with everybody else's exact sum known, the share has to fall towards chance.

No real user takes part. What never lives here: what noise there is (`shared/privacy/plan.py`), and updates
of the adapter (`adapter_reconstruction.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from client.contribution import as_floats, in_the_ring
from client.statistics.popularity import count_items
from server.noise import ServerNoise
from shared.audit.document import Reconstruction
from shared.privacy.plan import PrivacyPlan
from shared.privacy.releases import POPULARITY, Release
from shared.randomness import derive, secret_source

Floats = NDArray[np.float64]

# Made-up users, and items of each: as many as people have in a year of films.
USERS, ITEMS = 100, 20
SUMS = (10, 50, 100)


def reconstruct(plan: PrivacyPlan, *, num_items: int, seed: int) -> tuple[Reconstruction, ...]:
    """Attacks contributions of made-up users.

    Args:
        plan: Of the run. (public)
        num_items: I.
        seed: Which items the users have; noise is fresh and secret.

    Returns:
        One row a setting; none where the run releases no popularity.
    """
    release = plan.release(POPULARITY.name)
    if release is None or num_items < 2 * ITEMS:
        return ()
    rng = derive(seed, "reconstruction")
    histories = [rng.choice(num_items, size=ITEMS, replace=False).tolist() for _ in range(USERS)]
    vectors = count_items(
        pl.Series(histories, dtype=pl.List(pl.Int32)), np.arange(USERS), num_clients=USERS, num_items=num_items
    )
    own = [set(history) for history in histories]
    found = [
        found_again(
            "popularity: one contribution, plain", [(vector, items) for vector, items in zip(vectors, own, strict=True)]
        )
    ]
    for size in SUMS:
        groups = [range(start, start + size) for start in range(0, USERS - size + 1, size)]
        sums = [(vectors[list(group)].sum(axis=0), set().union(*(own[user] for user in group))) for group in groups]
        found.append(found_again(f"popularity: a plain sum of {size}: the union of their items", sums, shown=False))
    if not plan.adds_noise:
        return tuple(found)
    as_sent = _contributions(vectors, plan, release)
    found.append(found_again("popularity: one contribution, as it is sent", list(zip(as_sent, own, strict=True))))
    noised = _in_the_sum(vectors, plan, release)
    found.append(
        found_again("popularity: one contribution in the sum of all, all others known", list(zip(noised, own, strict=True)))
    )
    return tuple(found)


def _contributions(vectors: Floats, plan: PrivacyPlan, release: Release) -> list[Floats]:
    """What each user alone would send: under a silo's whole noise, or as integers with a share of it or none."""
    sources = [secret_source() for _ in vectors]  # one a client, so that each carries its own share
    if not plan.clips_whole_updates:
        replies = as_floats(vectors, stddev=plan.release_stddev(release), sources=sources)
        return [np.asarray(reply.values, dtype=np.float64) for reply in replies]
    encoding = plan.release_encoding(release, vectors.shape[1])
    rings = in_the_ring(vectors, encoding, plan=plan, sources=sources)
    return [encoding.decode(np.asarray(reply.values, dtype=np.uint32)) for reply in rings]


def _in_the_sum(vectors: Floats, plan: PrivacyPlan, release: Release) -> list[Floats]:
    """Each user's contribution with the noise of the whole sum: what is left of it for who knows everybody else."""
    silent = np.zeros_like(vectors)
    if not plan.clips_whole_updates:
        others = [_contributions(silent, plan, release) for _ in range(plan.num_clients - 1)]
        return [sum(noised, start=own) for own, *noised in zip(_contributions(vectors, plan, release), *others, strict=True)]
    encoding, noise = plan.release_encoding(release, vectors.shape[1]), ServerNoise(plan, seed=0)
    found = []
    for reply in in_the_ring(vectors, encoding, plan=plan, sources=[secret_source() for _ in vectors]):
        ring = np.asarray(reply.values, dtype=np.uint32)
        if plan.noise_share:  # of the others
            ring = encoding.add(ring, encoding.noise(secret_source(), share=plan.noise_share, shares=plan.num_clients - 1))
        found.append(encoding.decode(noise.added_to(ring, encoding, purpose=POPULARITY.name, round_number=0)))
    return found


def found_again(setting: str, seen: Sequence[tuple[Floats, set[int]]], *, shown: bool = True) -> Reconstruction:
    """How many of the items are among as many largest values.

    Args:
        setting: What was seen.
        seen: For each user, or sum, a value for every item, and the items that there were.
        shown: Whether the first of them is an example for people.
    """
    recovered = of = 0
    chance = 0.0
    for values, items in seen:
        largest = _largest(values, len(items))
        recovered += len(items.intersection(largest))
        of += len(items)
        chance += len(items) ** 2 / len(values)
    example = (tuple(sorted(seen[0][1])), tuple(sorted(_largest(seen[0][0], len(seen[0][1]))))) if shown else ((), ())
    return Reconstruction(
        setting=setting, recovered=recovered, of=of, chance=chance / of, example=example[0], guessed=example[1]
    )


def _largest(values: Floats, number: int) -> list[int]:
    found: list[int] = np.argsort(-values, kind="stable")[:number].tolist()
    return found
