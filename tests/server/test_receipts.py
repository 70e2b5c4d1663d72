"""What the server writes down of replies: heads and digests, in no order of nodes or times."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from flwr.app import Message

from server.event_log import EventLog
from server.receipts import Receipts
from shared.privacy.plan import PrivacyPlan
from shared.protocol.log_heads import contribution_digest, with_head
from shared.protocol.messages import ContributionReply
from simulations.engines.cohort import CohortGrid
from tests.plans import central_plan, silo_plan
from tests.run_files import message

GRID = CohortGrid(num_nodes=1, run_config={})


def _came(plan: PrivacyPlan, heads: dict[int, str]) -> Receipts:
    receipts = Receipts(plan, "train", 2)
    for node, head in heads.items():
        content = ContributionReply(np.full(2, node, dtype=np.float32)).to_record()
        request = GRID.create_message(content, "train", dst_node_id=node, group_id="2")
        receipts.came(Message(with_head(content, head), reply_to=request))
    return receipts


def test_each_reply_is_written_down_by_the_head_of_its_nodes_log_with_what_became_of_it(tmp_path: Path) -> None:
    log, plan = EventLog(tmp_path / "events.jsonl"), silo_plan()
    receipts = _came(plan, {7: "ff" * 32, 3: "aa" * 32})
    receipts.used(7)
    receipts.write(log)
    (event,) = log.read()
    assert (event["event"], event["purpose"], event["round_number"]) == ("received", "train", 2)
    digest = contribution_digest(ContributionReply(np.full(2, 7, dtype=np.float32)).to_record(), plan)
    assert event["replies"][1] == {"head": "ff" * 32, "contribution": digest, "used": True}
    assert (event["replies"][0]["head"], event["replies"][0]["used"]) == ("aa" * 32, False)


def test_guarantee_no_node_and_no_digest_of_clean_values_is_in_the_log(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    _came(central_plan(), {7: "ff" * 32}).write(log)
    assert log.read()[0]["replies"] == [{"head": "ff" * 32, "contribution": None, "used": False}]


def test_replies_without_heads_leave_no_event(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    receipts = Receipts(silo_plan(), "train", 1)
    receipts.came(message(ContributionReply(np.zeros(2, dtype=np.float32)).to_record(), "train"))
    receipts.write(log)
    assert log.read() == []
