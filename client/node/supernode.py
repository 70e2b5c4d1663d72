"""The SuperNode's process: Flower's own, which keeps the connection to the server, ended with the node that started it.

Started as `python -m client.node.supernode PARENT POLL ...` with the arguments of `flower-supernode`. Flower looks for a
message every three seconds. While a run is going on this process looks every POLL seconds instead: of a round of a small
federation, waiting was most. As of Flower 1.41 that time stands in one call of one private module.
"""

from __future__ import annotations

import sys
import time
from types import ModuleType

from shared.command_line.environment import prepare_environment
from shared.processes import end_with

# After the last message a run may go on; then the node looks as rarely as Flower does.
ALERT_SECONDS = 120.0
IDLE_SECONDS = 3.0


class AlertClock(ModuleType):
    """Flower's clock in the loop that fetches messages: sleeps less while messages come.

    Args:
        poll_seconds: Between two looks while a run is going on.
    """

    def __init__(self, poll_seconds: float) -> None:
        super().__init__("time")
        self._poll_seconds, self._last = poll_seconds, time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Three seconds is Flower's look for a message; a shorter sleep is its wait for a reply."""
        now = time.monotonic()
        if seconds < IDLE_SECONDS:
            self._last = now
            time.sleep(min(seconds, self._poll_seconds))
        else:
            time.sleep(self._poll_seconds if now - self._last < ALERT_SECONDS else seconds)

    def __getattr__(self, name: str) -> object:
        return getattr(time, name)


def main() -> None:
    """Runs Flower's SuperNode."""
    parent, poll_seconds = int(sys.argv[1]), float(sys.argv[2])
    prepare_environment()
    end_with(parent, patience=5)
    from flwr.supernode import start_client_internal
    from flwr.supernode.cli import flower_supernode

    vars(start_client_internal)["time"] = AlertClock(poll_seconds)
    sys.argv = ["flower-supernode", *sys.argv[3:]]
    flower_supernode()


if __name__ == "__main__":
    main()
