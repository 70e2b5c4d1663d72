"""What an audit costs: the twin with canaries and a witness / the same run without them; a whole audit; its verification.

A run on the embedded data (or `--data`) is simulated once. In turns, its twin runs with canaries, whose vectors and the real
users' exact sums the witness works out beside the clients, and as the run was. A whole audit is twin, judgment, signature
and page; it takes no shadow runs.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from server.app import server_app
from shared.audit.verification import verify
from shared.config import RunConfig
from shared.run_folder import load_config
from simulations.audits.audit import AUDIT, audit
from simulations.audits.twin import Twin
from simulations.benchmarks.timing import Spread, compare, options, seconds, show
from simulations.engines.cohort import run_as_cohorts
from simulations.simulate import simulate

_CANARIES = 2000
_LONGEST_AUDIT, _LONGEST_VERIFICATION = 600.0, 20.0


def main() -> None:
    """Measures and prints."""
    parser = options(__doc__, repeats=3)
    parser.add_argument("--data", default="synthetic", help="data of the run (default: the embedded data)")
    parser.add_argument("--clients", type=int, default=4, help="silos; 0 makes every user a client (default 4)")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    with tempfile.TemporaryDirectory(prefix="tacit-audit-cost-") as parent:
        folder = Path(parent) / "run"
        values = {"data.path": chosen.data, "federation.clients": chosen.clients, "data.public_catalog": True}
        simulate(RunConfig.from_mapping({**values, "evaluation.baselines": "none"}), folder, quiet=True)
        config, key = load_config(folder), Ed25519PrivateKey.generate()
        twin = Twin.of(folder, config, canaries=_CANARIES)

        def plain() -> None:
            with tempfile.TemporaryDirectory(prefix="tacit-audit-cost-") as place:
                own: dict[str, bool | str] = {
                    "run.out": f"{place}/run",
                    "privacy.ledger": f"{place}/ledger.sqlite",
                    "run.resume": False,
                }
                run_as_cohorts(
                    server_app(), num_nodes=twin.population.num_clients, run_config=config.with_values(own).to_flat()
                )

        comparison = compare(twin.run, plain, repeats=chosen.repeats)
        whole = [seconds(lambda: audit(folder, key=key, canaries=_CANARIES)) for _ in range(chosen.repeats)]
        verified = [seconds(lambda: verify(folder / AUDIT)) for _ in range(chosen.repeats)]
        show(
            "audit_cost",
            comparison,
            a="the twin, read",
            b="the run",
            target=None,
            as_json=chosen.json,
            audit_seconds=Spread.of(whole).median,
            audit_target_seconds=_LONGEST_AUDIT,
            verify_seconds=Spread.of(verified).median,
            verify_target_seconds=_LONGEST_VERIFICATION,
            canaries=len(twin.canaries),
            bytes=(folder / AUDIT).stat().st_size,
        )


if __name__ == "__main__":
    main()
