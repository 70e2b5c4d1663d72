"""Makes a server: a folder with an authority, a certificate, keys, settings and the files of its services.

All or nothing: the folder is prepared beside its place and put there in one step.

What never lives here: how each part is made (`authority.py`, `members.py`, `service_files.py`).
"""

from __future__ import annotations

import secrets
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from server.home import ServerHome
from server.provisioning import authority as authorities
from server.provisioning.service_files import verify_path, write_service_files
from server.settings import ServerSettings
from shared.errors import ConfigError
from shared.files import write_atomically
from shared.folder_claim import claimed, contents, publish
from shared.provisioning.fields import verify_host
from shared.provisioning.validity import verify_days
from shared.secagg.identities import write_key, write_roster
from shared.secagg.keys import IDENTITY_BYTES, Roster

_SECRET_BYTES = 32


def verify_settings(hosts: Sequence[str], port: int, superlink_port: int) -> ServerSettings:
    """The settings of a new server.

    Raises:
        ConfigError: If a host or a port is missing or not valid, or both ports are the same.
    """
    verified = tuple(dict.fromkeys(verify_host(host) for host in hosts))
    if not 1 <= len(verified) <= 32:
        raise ConfigError(f"Expected from 1 to 32 --host, got {len(verified)}. Name each host as nodes reach it.")
    for option, value in (("--port", port), ("--superlink-port", superlink_port)):
        if not 1 <= value <= 65_535:
            raise ConfigError(f"Expected {option} from 1 to 65535, got {option}={value}. Name another.")
    if port == superlink_port:
        raise ConfigError(
            f"Expected --port to differ from --superlink-port, got {port} for both. The proxy and the SuperLink listen on "
            "one machine: name two."
        )
    return ServerSettings(hosts=verified, port=port, superlink_port=superlink_port)


def make_server(folder: Path, settings: ServerSettings, *, days: int, passphrase: str, now: int) -> ServerHome:
    """Makes the folder of a server.

    Args:
        folder: Missing or empty.
        settings: Hosts and ports.
        days: How long the server's certificate holds.
        passphrase: Encrypts the authority's key. (private)
        now: Seconds since 1970.

    Raises:
        ConfigError: If the folder holds something, or a value is out of range; nothing is left behind.
    """
    home = ServerHome(verify_path(folder))
    verify_days(days, now=now)
    with claimed(home.path, verify_empty):
        prepared = Path(tempfile.mkdtemp(dir=home.path.parent, prefix=f".{home.path.name}."))  # of mode 0700
        try:
            _fill(ServerHome(prepared), home, settings, days=days, passphrase=passphrase, now=now)
            publish(prepared, home.path)
        except BaseException:
            shutil.rmtree(prepared, ignore_errors=True)
            raise
    return home


def _fill(prepared: ServerHome, home: ServerHome, settings: ServerSettings, *, days: int, passphrase: str, now: int) -> None:
    for folder in (prepared.authority.parent, prepared.certificate.parent, prepared.nodes):
        folder.mkdir(mode=0o700)
    authority = authorities.make_authority(settings.hosts[0], now=now)
    authorities.write_authority(prepared, authority, passphrase)
    key = authorities.make_certificate_key(prepared)
    certificate = authorities.server_certificate(authority, key, settings.hosts, days=days, now=now)
    authorities.write_certificate(prepared.certificate, certificate)
    write_key(prepared.identity, secrets.token_bytes(IDENTITY_BYTES), Ed25519PrivateKey.generate())
    secret = secrets.token_hex(_SECRET_BYTES).encode()  # Flower takes the bytes of the file as they are
    write_atomically(prepared.superexec_secret, lambda stream: stream.write(secret), mode=0o600)
    write_roster(prepared.roster, Roster({}))
    write_atomically(prepared.settings, lambda stream: stream.write(settings.to_toml().encode()))
    write_service_files(prepared.path, home, settings, Path(sys.executable).with_name("tacit"))


def verify_place(folder: Path) -> None:
    """Passes for a folder that can become a server's.

    Raises:
        ConfigError: If it holds something, or is a file, or other programs cannot read its name.
    """
    verify_path(folder)
    verify_empty(folder)


def verify_empty(folder: Path) -> None:
    """Passes for a folder that is missing or empty.

    Raises:
        ConfigError: If it holds something, or is a file.
    """
    if folder.exists() and (not folder.is_dir() or contents(folder)):
        raise ConfigError(
            f"Expected a new or empty folder for the server, found {'files in it' if folder.is_dir() else 'a file'}. A "
            "server's keys are made once: name another folder."
        )
