"""The SuperNode's process: Flower's own, which keeps the connection to the server, ended with the node that started it.

Started as `python -m client.node.supernode PARENT POLL ...` with the arguments of `flower-supernode`. Flower looks for a
message every three seconds, for the reply every half a second, and for a part of a message that has not come to the server
yet after a second. Of a round of a small federation such waiting was most. As of Flower 1.41 these times stand in three
calls of one private module.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from types import ModuleType

from shared.command_line.environment import prepare_environment
from shared.processes import end_with

# After the last message a run may go on; then the node looks as rarely as Flower does.
ALERT_SECONDS = 120.0
IDLE_SECONDS = 3.0
# One exchange of a round follows the other: right after a message the next look is soon, and each later one by so much of
# what was waited, so that waiting prolongs an exchange by about a tenth.
_SOONEST_SECONDS, _SHARE = 0.05, 0.2
# Until a part of a message that was announced is there: the first pause, and the longest; each is twice the one before.
_FIRST_SECONDS, _LONGEST_SECONDS = 0.02, 2.0


def pause(since_last: float, poll_seconds: float) -> float:
    """How long to wait before the next look for a message, seconds.

    Args:
        since_last: Seconds since the last message was answered.
        poll_seconds: The longest pause while a run is going on.
    """
    if since_last >= ALERT_SECONDS:
        return max(poll_seconds, IDLE_SECONDS)
    return min(max(_SOONEST_SECONDS, _SHARE * since_last), poll_seconds)


def look_again_soon(module: ModuleType, name: str) -> None:
    """Lets a function of Flower's that reads the parts of a message wait less for those that are not there yet.

    A message is announced before all of its parts have come. Flower then waits a second, and twice as long each time.

    Args:
        module: Where the function is looked up.
        name: `pull_objects`, or what calls it.
    """
    of_flower = vars(module)
    of_flower[name] = partial(of_flower[name], initial_backoff=_FIRST_SECONDS, backoff_cap=_LONGEST_SECONDS)


class AlertClock(ModuleType):
    """Flower's clock in the loop that fetches messages: sleeps less while messages come.

    Args:
        poll_seconds: The longest pause between two looks while a run is going on.
    """

    def __init__(self, poll_seconds: float) -> None:
        super().__init__("time")
        self._poll_seconds, self._last = poll_seconds, time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Three seconds is Flower's look for a message; a shorter sleep is its look for a reply, in its own memory."""
        if seconds < IDLE_SECONDS:
            time.sleep(min(seconds, _SOONEST_SECONDS))
            self._last = time.monotonic()
        else:
            time.sleep(pause(time.monotonic() - self._last, self._poll_seconds))

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
    look_again_soon(start_client_internal, "pull_objects")
    sys.argv = ["flower-supernode", *sys.argv[3:]]
    flower_supernode()


if __name__ == "__main__":
    main()
