"""`tacit server preflight`: what a server needs to run, each with how to mend it."""

from __future__ import annotations

import json
import shutil
import socket
import time
from pathlib import Path

from server.home import ServerHome
from server.provisioning.authority import ends, read_certificate
from server.provisioning.members import members
from server.provisioning.members import warnings as expiry_warnings
from server.settings import read_settings
from shared import running
from shared.command_line.checks import Check, connection, disk, dns
from shared.errors import TacitError


def examine(home: ServerHome, *, now: int) -> list[Check]:
    """Every check of a server.

    Args:
        home: Of the server.
        now: Seconds since 1970.

    Raises:
        ConfigError: If the folder is no server's.
    """
    settings = read_settings(home)
    names = [dns(host) for host in settings.hosts]
    checks = [*names, _certificate(home, now), _superlink(home, settings.superlink_port), _proxy_program(), disk(home.path)]
    if names[0].ok:
        checks += connection(settings.hosts[0], settings.port, home.authority)
    checks += [Check("expiry", warning, None) for warning in expiry_warnings(home, now=now)]
    return [*checks, _catalog(home), _members(home, now)]


def _certificate(home: ServerHome, now: int) -> Check:
    try:
        until = ends(read_certificate(home.certificate))
    except TacitError as error:
        return Check("certificate", "cannot be read", False, str(error))
    date = time.strftime("%Y-%m-%d", time.gmtime(until))
    return Check("certificate", f"holds until {date}", until > now, "Renew it: tacit server renew --certificate")


def _superlink(home: ServerHome, port: int) -> Check:
    with socket.socket() as found:
        found.settimeout(1)
        taken = found.connect_ex(("127.0.0.1", port)) == 0
    if running.process(home.running) and taken:
        return Check("superlink", f"listens on 127.0.0.1:{port}", True)
    if taken:
        return Check("superlink", f"another program listens on 127.0.0.1:{port}", False, "End it, or change superlink_port.")
    return Check("superlink", "not started", None, "Start it: tacit server start")


def _proxy_program() -> Check:
    found = shutil.which("nginx") or next((path for path in ("/usr/sbin/nginx",) if Path(path).exists()), None)
    return Check("proxy", found or "no nginx", True if found else None, "Install nginx, or use compose.yaml.")


def _catalog(home: ServerHome) -> Check:
    try:
        facts = json.loads((home.federation / "population.json").read_text(encoding="utf-8"))
        return Check("catalog", f"{facts['population']} users on {facts['clients']} nodes declared", True)
    except (OSError, ValueError, KeyError):
        return Check("catalog", "none", False, "Publish one: tacit server publish")


def _members(home: ServerHome, now: int) -> Check:
    states = [member.state(now) for member in members(home)]
    active = states.count("active")
    return Check(
        "nodes", f"{active} may connect, {len(states) - active} may not", active > 0, "Approve one: tacit server approve"
    )
