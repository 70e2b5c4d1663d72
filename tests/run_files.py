"""Signed run files for tests, and the requests and replies of their runs."""

from __future__ import annotations

from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import Message, RecordDict

from shared.config import RunConfig
from shared.config.defaults import fitted
from shared.privacy.population import PublicSize
from shared.protocol.messages import ReleaseInstruction, TrainInstruction
from shared.run_file import RunFile, propose
from simulations.engines.cohort import CohortGrid

SERVER = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
SERVER_KEY = SERVER.public_key().public_bytes_raw()
NODE = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
NOW = 1_800_000_000
USERS, CLIENTS = 3000, 4
SILOS = {"data.public_catalog": True, "federation.clients": CLIENTS, "federation.rounds": 2, "statistics.releases": "pairs"}
# Masked contributions need every user to be a client.
DEVICES = {
    "data.public_catalog": True,
    "federation.clients": 0,
    "federation.rounds": 0,
    "statistics.releases": "pairs",
    "privacy.mechanism": "distributed",
    "secure_aggregation.simulate": "full",
}
SIZES = {"popularity": 15, "pairs": 105, "train": 40}


def run_file(settings: dict[str, Any] = SILOS, *, key: Ed25519PrivateKey = SERVER, **changes: Any) -> RunFile:
    """A proposal; `changes` are arguments of `propose`."""
    config = RunConfig.from_mapping({**settings, "privacy.population": USERS})
    size = PublicSize(USERS, CLIENTS if config.federation.clients else USERS)
    config = fitted(config, num_users=size.users, num_clients=size.clients)
    arguments: dict[str, Any] = {
        "name": "autumn",
        "purpose": "Recommend films to customers",
        "size": size,
        "catalog_digest": "ab" * 32,
        "num_items": 15,
        "message_bytes": {name: 4 * size for name, size in SIZES.items()},
        "software": "0.1.0",
        "now": NOW,
        "valid_until": NOW + 1000,
        "key": key,
    }
    return propose(config, **{**arguments, **changes})


def request(run: RunFile, purpose: str, *, round_number: int = 0) -> Message:
    """A server's request for a contribution."""
    state = np.zeros(20, dtype=np.float32)
    if purpose == "train":
        record = TrainInstruction("run-1", round_number, run.plan, run.plan.l2_clip_norm, state).to_record()
        return message(record, "train", group=str(round_number))
    record = ReleaseInstruction("run-1", run.plan, purpose, round_number, state).to_record()
    return message(record, f"query.{purpose}")


def message(content: RecordDict, message_type: str, *, group: str = "0") -> Message:
    """A message as a node receives it."""
    return CohortGrid(num_nodes=1, run_config={}).create_message(content, message_type, dst_node_id=2, group_id=group)
