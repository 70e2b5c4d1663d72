"""What a client sends, in words: as many words as the allow-list has fields, and the right ones for each mechanism."""

from __future__ import annotations

from dataclasses import fields, is_dataclass

import numpy as np
import pytest

from shared.privacy.plan import PrivacyPlan
from shared.privacy.sent import FIELDS, sent_by_a_client
from shared.protocol import messages
from shared.protocol.messages import ContributionReply
from tests.plans import central_plan, distributed_plan, plain_plan, silo_plan

PLANS = {
    "none": (plain_plan(), "exact: neither clipped nor noised"),
    "dp-sgd": (silo_plan(), "under the full noise of the silo"),
    "dp-ftrl-silo": (silo_plan(mechanism="dp-ftrl-silo", min_separation=4), "under the full noise of the silo"),
    "central": (central_plan(), "without noise: the server sees it clean and adds the noise to the sum"),
    "dp-ftrl-central": (
        central_plan(mechanism="dp-ftrl-central", min_separation=3),
        "without noise: the server sees it clean",
    ),
    "distributed": (distributed_plan(), "only the sum of all carries the noise"),
    "distributed, masked": (distributed_plan(secure_aggregation="masked"), "under masks; the server gets the sum of all"),
}


def test_every_field_of_every_reply_has_its_words_and_no_other_has() -> None:
    replies = [found for name, found in vars(messages).items() if name.endswith("Reply") and is_dataclass(found)]
    allowed = {(reply.__name__, field.name) for reply in replies for field in fields(reply)}
    assert ("ContributionReply", "values") in allowed
    assert allowed == {key for key in FIELDS if key[0] != "Message"}


def test_a_reply_in_the_air_holds_what_has_words_and_nothing_else() -> None:
    record = ContributionReply(np.zeros(3, dtype=np.float32), rank=2).to_record()
    held = {name: set(part) for name, part in record.items()}
    assert held == {"array": {"flat"}, "metrics": {"rank"}}


@pytest.mark.parametrize("name", PLANS)
def test_the_words_say_what_is_done_to_each_contribution_under_each_mechanism(name: str) -> None:
    plan, how = PLANS[name]
    rows = sent_by_a_client(plan)
    contributions = [row for row in rows if row.what.startswith("the ") and "rank" not in row.what]
    assert len(contributions) == (3 if plan.adds_noise else 2)  # without privacy no client sends a metric
    assert all(how in row.how for row in contributions)
    assert any(row.what == "that it answers, and when" for row in rows)


def test_the_size_of_a_contribution_stands_beside_it_where_it_is_known() -> None:
    sizes = {row.what: row.bytes for row in sent_by_a_client(central_plan(), {"popularity": 512})}
    assert sizes["the count of its users' training items"] == 512
    assert {size for what, size in sizes.items() if "count" not in what} == {None}


def test_what_is_not_released_is_not_sent() -> None:
    def sent(plan: PrivacyPlan) -> str:
        return " ".join(row.what for row in sent_by_a_client(plan))

    quiet = {"popularity_noise_multiplier": 0.0, "evaluation_noise_multiplier": 0.0, "evaluations": 0}
    for make in (silo_plan, central_plan, distributed_plan):
        assert "count" in sent(make())
        assert "HR" in sent(make())
        assert "count" not in sent(make(**quiet))
        assert "HR" not in sent(make(**quiet))
    assert "rank" in sent(silo_plan())
    assert "rank" not in sent(central_plan())  # sums in the ring know no prefixes


def test_a_run_without_training_sends_neither_an_update_nor_its_rank() -> None:
    said = [row.what for row in sent_by_a_client(silo_plan(rounds=0))]
    assert not [what for what in said if "update" in what or "adapter" in what]
    assert any("rank of its update" in row.what for row in sent_by_a_client(silo_plan()))
