"""What a preflight says of a server: over real TLS, with certificates that are right, expired, or somebody else's."""

from __future__ import annotations

import contextlib
import email.utils
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.home import ServerHome
from shared.command_line.checks import Check, connection, disk, dns
from tests.provisioning import DAY, NOW, new_server


@contextlib.contextmanager
def serving(home: ServerHome, *, ahead: float = 0.0) -> Iterator[int]:
    """Answers one request with the certificate of a server, whose clock is so far ahead; yields the port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(home.certificate, home.certificate_key)
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            with (
                contextlib.suppress(OSError),
                listening.accept()[0] as plain,
                context.wrap_socket(plain, server_side=True) as one,
            ):
                one.recv(4096)
                date = email.utils.formatdate(time.time() + ahead, usegmt=True)
                one.sendall(f"HTTP/1.1 404 Not Found\r\nDate: {date}\r\nContent-Length: 0\r\n\r\n".encode())

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield int(listening.getsockname()[1])
        thread.join(10)


def _found(checks: list[Check]) -> dict[str, bool | None]:
    return {check.name: check.ok for check in checks}


def test_a_right_server_passes_and_its_clock_is_compared(server_home: ServerHome) -> None:
    with serving(server_home) as port:
        assert _found(connection("localhost", port, server_home.authority)) == {
            "port": True,
            "certificate": True,
            "clock": True,
        }


@pytest.mark.parametrize("ahead", [-600.0, 600.0])
def test_a_clock_that_is_ten_minutes_off_is_told(server_home: ServerHome, ahead: float) -> None:
    with serving(server_home, ahead=ahead) as port:
        (clock,) = [one for one in connection("localhost", port, server_home.authority) if one.name == "clock"]
    assert clock.ok is False
    assert clock.value.startswith("-" if ahead > 0 else "+")
    assert "NTP" in clock.advice


def test_a_server_of_another_authority_is_told(server_home: ServerHome, another_server: ServerHome) -> None:
    with serving(another_server) as port:
        found = connection("localhost", port, server_home.authority)
    assert _found(found) == {"port": True, "certificate": False}
    assert "fingerprint" in found[-1].advice


def test_an_expired_certificate_is_told(tmp_path: Path) -> None:
    home = new_server(tmp_path / "server", now=NOW - 400 * DAY)
    with serving(home) as port:
        found = connection("localhost", port, home.authority)
    assert _found(found) == {"port": True, "certificate": False}
    assert "expired" in found[-1].value


def test_a_port_without_a_server_and_one_that_speaks_something_else_are_told(server_home: ServerHome) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        thread = threading.Thread(target=lambda: listening.accept()[0].sendall(b"SSH-2.0-x\r\n"), daemon=True)
        thread.start()
        assert _found(connection("localhost", port, server_home.authority)) == {"port": True, "certificate": False}
    assert _found(connection("localhost", port, server_home.authority)) == {"port": False}


def test_a_name_that_does_not_resolve_and_a_disk_are_looked_at(tmp_path: Path) -> None:
    assert dns("localhost").ok
    assert dns("nobody.invalid").ok is False
    assert disk(tmp_path).value.endswith("GiB free")
