"""How long a person waits for `tacit --help`, against a Python interpreter that does nothing.

Also timed, each in a process of its own: importing the server and the client app, which is what a node pays
for a message in deployment.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from simulations.benchmarks.timing import Spread, compare, options, seconds, show

_ROOT = Path(__file__).resolve().parents[2]
_TARGET_SECONDS = 0.5


def main() -> None:
    """Measures and prints."""
    chosen = options(__doc__, repeats=9).parse_args()
    comparison = compare(lambda: _python("tacit.py", "--help"), lambda: _python("-c", "pass"), repeats=chosen.repeats)
    imports = Spread.of([seconds(lambda: _python("-c", "import server.app, client.app")) for _ in range(chosen.repeats)])
    show(
        "startup",
        comparison,
        a="tacit --help",
        b="bare interpreter",
        target=None,
        as_json=chosen.json,
        target_seconds=_TARGET_SECONDS,
        import_of_both_apps_seconds=imports.median if chosen.json else f"{imports} s",
    )


def _python(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], cwd=_ROOT, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
