"""`tacit node preflight`: what a node needs to run, and how to mend it. Nothing is sent but a look at the server's port."""

from __future__ import annotations

import time

from client.home import NodeHome
from client.node.settings import read_policy, read_settings
from client.provisioning import verify_kit, warnings
from client.store.settings import open_store
from shared.command_line.checks import Check, connection, disk, dns
from shared.errors import TacitError


def examine(home: NodeHome, *, now: int) -> list[Check]:
    """Every check of a node.

    Args:
        home: Of the node.
        now: Seconds since 1970.
    """
    checks = [_settings(home), _kit(home, now)]
    checks += [Check("expiry", warning, None) for warning in _warnings(home, now)]
    checks += [
        disk(home.path if home.path.exists() else home.path.parent),
        *_server(home),
        _interactions(home),
        _ledger(home),
    ]
    return [*checks, *_model()]


def _settings(home: NodeHome) -> Check:
    try:
        settings, policy = read_settings(home), read_policy(home)
    except TacitError as error:
        return Check("settings", "cannot be read", False, str(error))
    return Check("settings", f"{settings.name}, server {settings.server}, runs are approved {policy.approve}", True)


def _kit(home: NodeHome, now: int) -> Check:
    try:
        kit = verify_kit(home, now=now)
    except TacitError as error:
        return Check("kit", "does not hold", False, str(error))
    return Check("kit", f"holds until {time.strftime('%Y-%m-%d', time.gmtime(kit.valid_until))}", True)


def _warnings(home: NodeHome, now: int) -> list[str]:
    try:
        return warnings(home, now=now)
    except TacitError:
        return []


def _server(home: NodeHome) -> list[Check]:
    try:
        host, _, port = read_settings(home).server.rpartition(":")
    except TacitError:
        return []
    host = host.strip("[]")
    name = dns(host)
    return [name, *(connection(host, int(port), home.authority) if name.ok and home.authority.exists() else [])]


def _interactions(home: NodeHome) -> Check:
    if not home.interactions.exists():
        return Check("interactions", "none", False, "Bring some in with `tacit node ingest`.")
    try:
        contents = open_store(home).contents()
    except TacitError as error:
        return Check("interactions", "cannot be read", False, str(error))
    return Check(
        "interactions", f"{contents.interactions} of {contents.users} users", contents.interactions > 0, "Ingest some."
    )


def _ledger(home: NodeHome) -> Check:
    from client.ledger.ledger import Ledger

    if not home.ledger.exists():
        return Check("ledger", "new", True)
    try:
        ledger = Ledger(home.ledger)
        ledger.verify_newest()
        ledger.close()
    except TacitError as error:
        return Check("ledger", "cannot be used", False, str(error))
    return Check("ledger", "whole", True)


def _model() -> list[Check]:
    import torch

    from shared.model.backbone import DEFAULT_BACKBONE, load_backbone

    device = f"cuda: {torch.cuda.get_device_name(0)}" if torch.cuda.is_available() else "cpu (no CUDA device found)"
    try:
        loaded = load_backbone(DEFAULT_BACKBONE)
    except TacitError as error:
        return [Check("device", device, None), Check("weights", DEFAULT_BACKBONE, False, str(error))]
    return [Check("device", device, None), Check("weights", f"{DEFAULT_BACKBONE}, sha256 {loaded.digest[:12]}", True)]
