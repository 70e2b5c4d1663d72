"""How long a person waits from `tacit simulate` to the first local step, beyond the imports of torch and its companions.

Three kinds of process take turns: an interpreter that imports those four and ends; `tacit simulate`, stopped when the first
round starts to train; and the first again, as a control. In between lie our own imports, reading and splitting the data,
calibrating the noise, loading the backbone (its texts encoded before, as on every run but the first), writing the population
and the popularity count of all clients.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from simulations.benchmarks.timing import Spread, options

TARGET_SECONDS = 3.0
_ROOT = Path(__file__).resolve().parents[2]
_IMPORTS = "import torch, transformers, peft, opacus"
# Ends the process at the first local step; what is timed is a whole process, which is what a person waits for.
_UP_TO_THE_FIRST_STEP = """
import os, sys
import client.answering
def first_step(*arguments):
    os._exit(0)
client.answering.train = first_step
from simulations import cli
cli.run()
"""


def main() -> None:
    """Measures and prints."""
    parser = options(__doc__, repeats=7)
    parser.add_argument("--data", default="synthetic", help="file, folder or 'synthetic'")
    parser.add_argument("--config", default="", help="configuration of the run")
    chosen = parser.parse_args()
    environment = {**os.environ, "OMP_NUM_THREADS": str(chosen.threads), "TOKENIZERS_PARALLELISM": "false"}
    given = ["--data", str(Path(chosen.data).resolve()) if chosen.data != "synthetic" else chosen.data]
    given += ["--config", str(Path(chosen.config).resolve())] if chosen.config else []

    def imports() -> float:
        return _seconds([sys.executable, "-c", _IMPORTS], environment)

    def first_step() -> float:
        with tempfile.TemporaryDirectory() as parent:
            run = ["simulate", *given, "--out", str(Path(parent) / "run"), "--quiet", "--baselines", "none"]
            return _seconds([sys.executable, "-c", _UP_TO_THE_FIRST_STEP, *run], environment)

    imports(), first_step()
    pairs = []
    for turn in range(chosen.repeats):
        measures = (imports, first_step) if turn % 2 else (first_step, imports)
        taken = {measure: measure() for measure in measures}
        pairs.append((taken[first_step], taken[imports]))
    record = {
        "benchmark": "first_step",
        "seconds": asdict(Spread.of([whole - part for whole, part in pairs])),
        "whole_seconds": asdict(Spread.of([whole for whole, _ in pairs])),
        "imports_seconds": asdict(Spread.of([part for _, part in pairs])),
        "target_seconds": TARGET_SECONDS,
        "repeats": chosen.repeats,
        "data": Path(chosen.data).name,
        "threads": chosen.threads,
    }
    if chosen.json:
        print(json.dumps(record))
        return
    print(f"first_step: s, {chosen.repeats} pairs, median [min, max] (aim <= {TARGET_SECONDS:g} beyond the imports)")
    for name in ("seconds", "whole_seconds", "imports_seconds"):
        print(f"  {name.removesuffix('_seconds').replace('seconds', 'beyond the imports')}: {Spread(**record[name])}")
    print(f"  data: {record['data']}   threads: {chosen.threads}")


def _seconds(command: list[str], environment: dict[str, str]) -> float:
    start = time.perf_counter()
    done = subprocess.run(command, cwd=_ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"Expected the process to end well, got status {done.returncode}: {done.stderr[-500:]}")
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
