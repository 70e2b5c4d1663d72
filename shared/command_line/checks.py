"""Rows of a preflight: what was looked at, what was found, whether it is right, and how to mend it; and the looking itself
at what servers and nodes have in common: names, ports, TLS, clock, disk.

Never here: what only one of them has.
"""

from __future__ import annotations

import email.utils
import shutil
import socket
import ssl
import time
from dataclasses import dataclass
from pathlib import Path

_SECONDS = 5.0
_SKEW_SECONDS = 60.0
_DISK_BYTES = 1024**3


@dataclass(frozen=True)
class Check:
    """One row.

    Attributes:
        name: What was looked at.
        value: What was found.
        ok: Whether it is right; None where it is only said.
        advice: How to mend it.
    """

    name: str
    value: str
    ok: bool | None
    advice: str = ""


def dns(host: str) -> Check:
    """Whether a name resolves."""
    try:
        found = sorted({str(one[4][0]) for one in socket.getaddrinfo(host, None)})
    except OSError as error:
        return Check("name", f"{host}: {error.strerror or error}", False, "Mend DNS, or use an address that resolves here.")
    return Check("name", f"{host}: {', '.join(found[:3])}", True)


def disk(folder: Path) -> Check:
    """Whether there is room for a run."""
    free = shutil.disk_usage(folder).free
    return Check("disk", f"{free / 1024**3:.1f} GiB free", free >= _DISK_BYTES, "Free at least 1 GiB.")


def connection(host: str, port: int, authority: Path) -> list[Check]:
    """Whether a server answers with a certificate of this authority, and how far its clock is from this machine's."""
    try:
        plain = socket.create_connection((host, port), timeout=_SECONDS)
    except OSError as error:
        advice = "Start the server and its proxy, or open the port in the firewall."
        return [Check("port", f"{host}:{port}: {error.strerror or type(error).__name__}", False, advice)]
    found = [Check("port", f"{host}:{port} answers", True)]
    context = ssl.create_default_context(cafile=str(authority))
    try:
        with plain, context.wrap_socket(plain, server_hostname=host) as secure:
            found.append(Check("certificate", f"of this authority, {secure.version()}", True))
            secure.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            answer = secure.recv(4096).decode("latin-1")
    except ssl.SSLCertVerificationError as error:
        advice = "Compare the fingerprint; the server may have a new authority, or its certificate has expired."
        return [*found, Check("certificate", error.verify_message, False, advice)]
    except (OSError, ssl.SSLError) as error:
        return [*found, Check("certificate", type(error).__name__, False, "Something else answers at this port.")]
    return [*found, _clock(answer)]


def _clock(answer: str) -> Check:
    """The difference of two clocks by the date of an HTTP answer, which is exact to a second."""
    for line in answer.split("\r\n"):
        name, _, value = line.partition(":")
        if name.lower() == "date":
            moment = email.utils.parsedate_to_datetime(value.strip()).timestamp()
            skew = time.time() - moment
            return Check(
                "clock", f"{skew:+.0f} s beside the server's", abs(skew) <= _SKEW_SECONDS, "Synchronize the clock (NTP)."
            )
    return Check("clock", "the server sends no date", None)
