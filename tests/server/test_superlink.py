"""What becomes of a server whose SuperLink ends, and of two processes that revoke the same node at once."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from server import superlink
from server.flower_commands import FlowerFailed
from server.home import ServerHome


def test_a_superlink_that_ends_by_itself_is_a_failure_after_which_systemd_starts_the_server_again(
    server_home: ServerHome,
) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with pytest.raises(FlowerFailed, match=r"^Expected Flower's SuperLink to run, it ended\.") as caught:
        superlink._watch(server_home, ended)
    assert caught.value.exit_status == 1  # and not 2, which the unit takes for bad input


@pytest.mark.parametrize("listed", [True, False])
def test_a_node_that_another_process_unregistered_meanwhile_is_no_failure(
    listed: bool, server_home: ServerHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flower(home: ServerHome, *arguments: str) -> dict[str, Any]:
        if arguments[1] == "list":
            return {"nodes": [{"node-id": "7", "status": "online"}] if listed else []}
        raise FlowerFailed("Node ID not found")

    monkeypatch.setattr(superlink, "flower", flower)
    if not listed:
        superlink._unregister(server_home, "7")
        return
    with pytest.raises(FlowerFailed, match="not found"):
        superlink._unregister(server_home, "7")
