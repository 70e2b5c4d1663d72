"""Heads of logs in messages: their one form, and which bytes have a digest."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import ProtocolViolation
from shared.privacy.plan import PrivacyPlan
from shared.protocol.log_heads import contribution_digest, head_in, instruction_digest, with_head
from shared.protocol.messages import ContributionReply, TrainInstruction
from shared.protocol.secure_sums import MASK, stage_record, with_stage
from tests.one_process import through_bytes
from tests.plans import central_plan, distributed_plan, plain_plan, silo_plan
from tests.run_files import message

HEAD = "ab" * 32
MASKED = distributed_plan(secure_aggregation="masked")


def _reply(*values: float) -> RecordDict:
    return ContributionReply(np.array(values, dtype=np.float32)).to_record()


@given(st.binary(min_size=32, max_size=32))
def test_a_head_travels_and_the_content_beside_it_is_the_same(head: bytes) -> None:
    content = _reply(1.0, 2.0)
    travelled = message(through_bytes(with_head(content, head.hex())), "train")
    assert head_in(travelled) == head.hex()
    assert set(content) == {"array"} and set(travelled.content) == {"array", "log"}
    assert ContributionReply.from_message(travelled, in_ring=False).values.tolist() == [1.0, 2.0]


def test_a_message_without_a_head_has_none() -> None:
    assert head_in(message(_reply(1.0), "train")) is None


@pytest.mark.parametrize(
    "record",
    [
        ConfigRecord({"head": b"\0" * 31}),
        ConfigRecord({"head": b"\0" * 33}),
        ConfigRecord({"head": "ab" * 32}),
        ConfigRecord({"head": b"\0" * 32, "more": b"user 7"}),
        ConfigRecord({}),
        _reply(1.0)["array"],
    ],
    ids=["short", "long", "text", "more", "nothing", "an array"],
)
def test_guarantee_nothing_but_a_head_of_32_bytes_stands_in_its_place(record: Any) -> None:
    with pytest.raises(ProtocolViolation, match="Expected a log's head of 32 bytes and nothing beside it"):
        head_in(message(RecordDict({**_reply(1.0), "log": record}), "train"))


PLANS: dict[str, tuple[PrivacyPlan, bool]] = {
    "silos": (silo_plan(), True),
    "masked": (MASKED, True),
    "a share of the noise in the open": (distributed_plan(), False),
    "clean, noised by the server": (central_plan(), False),
    "without privacy": (plain_plan(), False),
}


@pytest.mark.parametrize("name", PLANS)
def test_guarantee_clean_bytes_and_those_under_a_share_of_the_noise_have_no_digest(name: str) -> None:
    plan, has_one = PLANS[name]
    assert (contribution_digest(_reply(1.0), plan) is not None) == has_one


def test_a_digest_is_of_the_values_as_they_travel_and_of_no_head() -> None:
    content, plan = _reply(1.0, 2.0), silo_plan()
    own = contribution_digest(content, plan)
    assert contribution_digest(through_bytes(with_head(content, HEAD)), plan) == own
    others = [_reply(1.0, 2.5), _reply(1.0), ContributionReply(np.array([1.0, 2.0], dtype=np.float32), rank=2).to_record()]
    assert len({own, *(contribution_digest(other, plan) for other in others)}) == 4
    masked = [contribution_digest(stage_record(MASK, payload), MASKED) for payload in (b"one", b"other")]
    assert len(set(masked)) == 2


def test_an_instruction_has_one_digest_for_all_clients_and_none_where_its_state_is_of_exact_sums() -> None:
    def asked(plan: PrivacyPlan, value: float = 0.0) -> RecordDict:
        return TrainInstruction("run", 1, plan, 0.5, np.full(3, value, dtype=np.float32)).to_record()

    content = asked(MASKED)
    own = instruction_digest(content, MASKED)
    for shares in (b"for one client", b"for another"):
        assert instruction_digest(through_bytes(with_stage(with_head(content, HEAD), MASK, shares)), MASKED) == own
    assert instruction_digest(asked(MASKED, 1.0), MASKED) != own
    assert instruction_digest(asked(plain_plan()), plain_plan()) is None
