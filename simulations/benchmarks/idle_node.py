"""What an idle node costs its machine: processor time and memory of all its processes, while nothing is asked of it.

A server and one node over loopback with TLS, as an operator starts them. The node has interactions and no run; the process
that holds the model is not there. Measured is once the node looks for messages as rarely as it does without a run. Memory is
PSS, so that what its processes share counts once.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

from client.node.supernode import ALERT_SECONDS
from shared.command_line.interruption import signals_interrupt
from simulations.benchmarks.nodes import BIN, federation, wait_for
from simulations.benchmarks.timing import options
from simulations.benchmarks.usage import processor_seconds, pss_megabytes, tree


def main() -> None:
    """Measures and prints."""
    parser = options(__doc__, repeats=1)
    parser.add_argument("--seconds", type=float, default=60.0, help="for which it is watched (default 60)")
    chosen = parser.parse_args()
    with (
        signals_interrupt(),
        tempfile.TemporaryDirectory() as folder,
        federation(Path(folder), nodes=1, users=20) as (made, processes),
    ):
        node = processes.start("node", BIN / "tacit", "node", "start", "--home", made.nodes[0].path)
        wait_for((made.nodes[0].running / "status.json").exists)
        time.sleep(ALERT_SECONDS + 5)
        before, began = _used(node), time.monotonic()
        time.sleep(chosen.seconds)
        used, waited = _used(node) - before, time.monotonic() - began
        memory = {_name(pid): pss_megabytes(pid) for pid in tree(node)}
    record = {"benchmark": "idle_node", "processor_percent": 100 * used / waited, "pss_mb": sum(memory.values())}
    record |= {"seconds": waited, "processes": memory}
    print(json.dumps(record) if chosen.json else ", ".join(f"{key} {value}" for key, value in record.items()))


def _used(node: int) -> float:
    return sum(processor_seconds(pid) for pid in tree(node))


def _name(pid: int) -> str:
    """What a process is, by its command."""
    command = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    return f"{pid} {'SuperNode' if 'client.node.supernode' in command else 'worker'}"


if __name__ == "__main__":
    main()
