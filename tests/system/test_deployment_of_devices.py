"""Devices of one person each, as processes: masked sums with noise in shares, and a device that dies in one of them.

It takes minutes: each sum has six exchanges, and Flower waits some 70 seconds until it takes a node for dead.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from client.ledger.ledger import Ledger
from tests.deployment import deployment, eventually, released_tensors

DEVICES = 9
MASKED = {
    "federation.clients": 0,
    "federation.rounds": 3,
    "federation.minimum_clients": 6,
    "federation.timeout_seconds": 120,
    "statistics.releases": "none",
    "privacy.delta": 0.01,
    "secure_aggregation.dropout_fraction": 0.25,
    "secure_aggregation.server": "curious",
}


@pytest.mark.faults
def test_sums_of_devices_are_masked_and_go_on_without_one_that_dies(tmp_path: Path, tiny_bert: str) -> None:
    with deployment(tmp_path, tiny_bert, DEVICES, users=1) as devices:
        devices.start_server()
        for home in devices.nodes:
            devices.start_node(home)
        run = devices.begin("masked", **MASKED)
        eventually(lambda: devices.events(run, "secure_sum"), seconds=600)
        killed = devices.nodes[3]
        devices.kill(killed.path.name)
        state = devices.ended(run, seconds=900)
        assert (state.state, state.reason) == ("finished", "")

        sums = devices.events(run, "secure_sum")
        assert sums[0]["survivors"] == DEVICES
        assert sums[-1]["survivors"] == DEVICES - 1
        assert {one["survivors"] for one in sums} == {DEVICES, DEVICES - 1}
        folder = devices.server.runs / run
        assert {one["release"] for one in sums} >= {"popularity", "train"}
        for home in devices.nodes:
            if home is killed:
                continue
            (received,) = eventually(lambda home=home: list(home.released.glob("*/adapter")))  # type: ignore[misc]
            assert released_tensors(received) == released_tensors(folder / "adapter")
            ledger = Ledger(home.ledger)
            (account,) = ledger.accounts()
            assert account.entries == len(sums)
            assert 0 < (ledger.epsilons(account.spent)["known_participation"] or 0) <= 8
            assert devices.decisions(home, "refused") == []
        # What the killed device may have sent is in its ledger: its part of each sum that it was asked for.
        entries = sum(account.entries for account in Ledger(killed.ledger).accounts())
        assert sum(one["survivors"] == DEVICES for one in sums) <= entries <= len(sums)
