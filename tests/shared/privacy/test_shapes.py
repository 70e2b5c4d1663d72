"""How large a client's message is, against what it weighs in the air; and that the largest stays within the setting."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from shared.config import RunConfig
from shared.config.defaults import fitted
from shared.errors import CheckpointError
from shared.model.statistics import Statistics
from shared.privacy.calibration import plan_of
from shared.privacy.plan import PrivacyPlan
from shared.privacy.releases import is_sparse, release_of
from shared.privacy.shapes import StatisticShapes
from shared.protocol.messages import ContributionReply
from tests.plans import central_plan, plain_plan, silo_plan

CLIENTS = {"central": 0, "distributed": 0, "dp-sgd": 4, "none": 4}


def _planned(mechanism: str, users: int, **settings: object) -> tuple[PrivacyPlan, StatisticShapes]:
    values = {"federation.clients": CLIENTS[mechanism], **{key.replace("__", "."): value for key, value in settings.items()}}
    if mechanism == "none":
        values["privacy.epsilon"] = float("inf")
    elif mechanism == "distributed":
        values |= {"privacy.mechanism": "distributed", "privacy.colluding_clients": 3}
    elif mechanism == "central":
        values["privacy.mechanism"] = "central"
    clients = CLIENTS[mechanism] or users
    config = fitted(RunConfig.from_mapping(values), num_users=users, num_clients=clients)
    plan = plan_of(config, num_users=users, num_clients=clients)
    assert plan.mechanism == mechanism
    return plan, StatisticShapes.expected(config, plan, num_items=3000, dimensions=128)


def test_the_file_of_another_version_is_refused_and_one_of_this_version_read() -> None:
    none = np.zeros((4, 0), dtype=np.float32)
    tensors = {
        "weights": np.ones(5, np.float32),
        "factors": none,
        "directions": none,
        "transition": np.eye(2, dtype=np.float32),
    }
    assert Statistics.from_tensors(tensors).transition[1, 1] == 1.0
    del tensors["directions"]
    with pytest.raises(CheckpointError, match=r"^Expected weights, factors, directions, transition .*run it again\.$"):
        Statistics.from_tensors(tensors)


@pytest.mark.parametrize("mechanism", CLIENTS)
def test_a_message_weighs_what_is_stated_under_each_mechanism(mechanism: str) -> None:
    plan, shapes = _planned(mechanism, 3000)
    shapes = replace(shapes, head=90, text_dimensions=5, factor_dimensions=3)  # more pairs than items: they are refined too
    stated, found = shapes.message_bytes(plan), dict.fromkeys((one.name for one in plan.releases), 0)
    for purpose, size in shapes.sizes.items():
        release = plan.release(release_of(purpose))
        if release is None:
            continue
        encoding = None
        if plan.clips_whole_updates:
            encoding = plan.release_encoding(release, size, sparse=is_sparse(purpose))
        values = np.zeros(size, np.float32) if encoding is None else np.zeros(encoding.dimension, np.uint32)
        flat = ContributionReply(values, encoding).to_record()["array"]["flat"]
        found[release.name] = max(found[release.name], flat.numpy().nbytes)
    assert stated == {name: size for name, size in found.items() if size}
    assert set(stated) == {one.name for one in plan.releases}


@pytest.mark.parametrize("upload_bytes", [20_000, 1_000_000])
def test_without_noise_the_head_is_the_largest_one(upload_bytes: int) -> None:
    _, shapes = _planned("none", 20_000, statistics__upload_bytes=upload_bytes)
    assert shapes.head == 2000
    assert _planned("central", 20_000, statistics__upload_bytes=upload_bytes)[1].head < 2000  # the control


@pytest.mark.parametrize("mechanism", sorted(CLIENTS.keys() - {"none"}))
@pytest.mark.parametrize("upload_bytes", [20_000, 1_000_000])
def test_no_message_of_a_statistic_exceeds_the_setting(mechanism: str, upload_bytes: int) -> None:
    plan, shapes = _planned(mechanism, 20_000, statistics__upload_bytes=upload_bytes)
    stated = shapes.message_bytes(plan)
    assert stated["pairs"] <= upload_bytes
    assert stated.get("refinement", 0) <= max(upload_bytes, stated["transitions"])
    more = replace(shapes, head=shapes.head + 1).message_bytes(plan)["pairs"]
    assert more > upload_bytes or shapes.head < 2000


def test_more_silos_that_each_add_noise_have_a_smaller_head() -> None:
    """Their noises add up: sixteen silos have four times the standard deviation of one, and half the head."""
    config = RunConfig.from_mapping({"statistics.releases": "pairs", "statistics.upload_bytes": 10_000_000})

    def head(silos: int) -> int:
        plan = silo_plan(statistics="popularity,pairs", pairs_noise_multiplier=0.5, population=2000, num_clients=silos)
        return StatisticShapes.expected(config, plan, num_items=10_000, dimensions=128).head

    assert head(1) == round(14 * (2000 / 0.5) ** 0.5)
    assert head(16) == pytest.approx(head(1) / 2, abs=1)


@pytest.mark.parametrize(
    ("users", "noise", "directions"),
    [
        (940, 0.6, 128),
        (940, 2.5, 64),
        (940, 7.0, 32),
        (3000, 2.4, 128),
        (100_000, 5.0, 256),
        (700, 0.0, 128),
        (9000, 0.0, 256),
    ],
)
def test_there_are_more_directions_where_more_users_stand_to_one_standard_deviation_of_the_noise(
    users: int, noise: float, directions: int
) -> None:
    config = RunConfig.from_mapping({"statistics.releases": "pairs,transitions"})
    changes = {
        "pairs_noise_multiplier": noise,
        "transitions_noise_multiplier": noise,
        "statistics": "popularity,pairs,transitions",
    }
    make = central_plan if noise else plain_plan
    plan = make(population=users, num_clients=users, **changes)
    assert StatisticShapes.expected(config, plan, num_items=3000, dimensions=128).dimensions == directions
