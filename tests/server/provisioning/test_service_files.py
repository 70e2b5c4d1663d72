"""The files of the services: what they must say, and, where the programs are on this machine, what these programs say."""

from __future__ import annotations

import configparser
import http.client
import os
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from server.cli import app as server_commands
from server.home import ServerHome
from server.provisioning.service_files import NAMES, verify_path, write_service_files
from server.settings import ServerSettings
from tests import provisioning

PROGRAM = Path("/opt/tacit/bin/tacit")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@pytest.fixture
def settings() -> ServerSettings:
    return ServerSettings(hosts=provisioning.HOSTS, port=_free_port(), superlink_port=_free_port())


@pytest.fixture
def files(server_home: ServerHome, settings: ServerSettings) -> dict[str, str]:
    write_service_files(server_home.path, server_home, settings, PROGRAM)
    return {name: (server_home.path / name).read_text(encoding="utf-8") for name in NAMES}


def test_no_file_holds_a_gap_or_a_secret(server_home: ServerHome, files: dict[str, str]) -> None:
    for text in files.values():
        assert "{{" not in text and "{%" not in text and text.endswith("\n")
        for secret in (server_home.superexec_secret, server_home.certificate_key, server_home.identity):
            assert secret.read_text(encoding="utf-8") not in text


def test_the_proxy_forwards_what_nodes_need_and_nothing_else(files: dict[str, str], settings: ServerSettings) -> None:
    text = files["nginx.conf"]
    locations = dict(re.findall(r"^    location ([^{]+) \{\n(.*?)^    \}", text, flags=re.MULTILINE | re.DOTALL))
    assert set(locations) == {"/v1/fleet/", "= /v1/fleet", "/"}
    assert locations["/"].strip() == locations["= /v1/fleet"].strip() == "return 404;"
    # With the path, and so without what a request wrote in its place.
    assert "proxy_pass https://tacit_superlink/v1/fleet/;" in locations["/v1/fleet/"]
    assert text.count("proxy_pass") == 1
    assert f"server 127.0.0.1:{settings.superlink_port};" in text
    assert f"listen {settings.port} ssl;" in text and f"listen [::]:{settings.port} ssl;" in text
    assert not [line for line in text.splitlines() if line.strip().startswith("listen") and "ssl" not in line]


@pytest.mark.parametrize(
    "line",
    [
        "limit_except POST { deny all; }", "proxy_ssl_verify on;", "proxy_ssl_name localhost;", "ssl_protocols TLSv1.3;",
        "client_max_body_size 16m;", "client_body_timeout 60s;", "client_header_timeout 10s;", "server_tokens off;",
        "server_name fl.example.org 192.0.2.7 [2001:db8::7];",
    ],
)  # fmt: skip
def test_the_proxy_verifies_bounds_and_names(files: dict[str, str], line: str) -> None:
    assert files["nginx.conf"].count(f" {line}\n") == 1


def test_the_units_start_what_is_installed_and_give_it_little(server_home: ServerHome, files: dict[str, str]) -> None:
    for name, what in (("tacit-server.service", "server"), ("tacit-node.service", "node")):
        unit = configparser.ConfigParser(interpolation=None)
        unit.optionxform = str  # type: ignore[assignment,method-assign]
        unit.read_string(files[name])
        service = unit["Service"]
        assert service["ExecStart"] == f"{PROGRAM} {what} start"
        assert service["User"] == "tacit" and service["UMask"] == "0077"
        assert service["ProtectSystem"] == "strict" and service["NoNewPrivileges"] == "yes"
        assert service["CapabilityBoundingSet"] == ""
        assert service["RestartPreventExitStatus"] == "2"
        assert service["SuccessExitStatus"] == "143"
    server = files["tacit-server.service"]
    assert f"Environment=TACIT_SERVER_HOME={server_home.path}\n" in server
    assert f"ReadWritePaths={server_home.path}\n" in server
    assert f"InaccessiblePaths=-{server_home.authority_key}\n" in server
    assert "IPAddressDeny=any\nIPAddressAllow=localhost\n" in server
    assert "Environment=TACIT_NODE_HOME=/var/lib/tacit-node\n" in files["tacit-node.service"]


def test_the_compose_file_keeps_the_authoritys_key_out_and_the_superlink_on_loopback(
    server_home: ServerHome, files: dict[str, str], settings: ServerSettings
) -> None:
    services = yaml.safe_load(files["compose.yaml"])["services"]
    assert set(services) == {"server", "proxy"}
    assert services["server"]["ports"] == [f"{settings.port}:{settings.port}"]
    assert services["proxy"]["network_mode"] == "service:server" and "ports" not in services["proxy"]
    assert f"/dev/null:{server_home.authority_key}:ro" in services["server"]["volumes"]
    proxied = " ".join(services["proxy"]["volumes"])
    assert str(server_home.identity) not in proxied and str(server_home.authority_key) not in proxied
    # Every place that is mounted is there, and the command is one of this program's.
    here = {volume.split(":")[0] for service in services.values() for volume in service["volumes"]}
    assert here and all(Path(place).exists() for place in here)
    program, *words = services["server"]["command"]
    assert program == "tacit" and CliRunner().invoke(server_commands, [*words[1:], "--help"]).exit_code == 0
    assert words[0] == "server"
    for service in services.values():
        assert service["cap_drop"] == ["ALL"] and service["read_only"] is True


def test_a_path_is_absolute_and_plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert verify_path(Path("a/../b")) == tmp_path / "b"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not on this machine")
def test_systemd_reads_the_units(server_home: ServerHome, settings: ServerSettings) -> None:
    program = server_home.path / "tacit"
    program.write_text("#!/bin/sh\n", encoding="utf-8")
    program.chmod(0o755)
    write_service_files(server_home.path, server_home, settings, program)
    for name in ("tacit-server.service", "tacit-node.service"):
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", server_home.path / name], capture_output=True, text=True
        )
        assert not [line for line in done.stderr.splitlines() if name in line], done.stderr


class _SuperLink(BaseHTTPRequestHandler):
    """Says which path it got."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = f"{self.path} {self.headers.get('flwr-public-key')}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.do_POST()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def proxied(server_home: ServerHome, settings: ServerSettings, files: dict[str, str], tmp_path: Path) -> Iterator[int]:
    """nginx with the configuration that was written, before an HTTPS server in the place of the SuperLink."""
    nginx = shutil.which("nginx")
    if nginx is None:
        pytest.skip("nginx is not on this machine")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server_home.certificate, server_home.certificate_key)
    superlink = HTTPServer(("127.0.0.1", settings.superlink_port), _SuperLink)
    superlink.socket = context.wrap_socket(superlink.socket, server_side=True)
    thread = threading.Thread(target=superlink.serve_forever, daemon=True)
    thread.start()
    places = " ".join(
        f"{name}_temp_path {tmp_path}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root; " if os.getuid() == 0 else ""  # whose folder it is
    main = tmp_path / "main.conf"
    main.write_text(
        f"{user}daemon off; pid {tmp_path}/pid; error_log stderr; worker_processes 1; events {{}}\n"
        f"http {{ access_log off; {places} include {server_home.path}/nginx.conf; }}\n",
        encoding="utf-8",
    )
    checked = subprocess.run([nginx, "-t", "-e", "stderr", "-c", main], capture_output=True, text=True)
    assert checked.returncode == 0 and "[warn]" not in checked.stderr, checked.stderr
    process = subprocess.Popen([nginx, "-e", "stderr", "-c", main])
    try:
        yield settings.port
    finally:
        process.terminate()
        process.wait(timeout=30)
        superlink.shutdown()
        superlink.server_close()
        thread.join(timeout=30)


def _ask(port: int, server: ServerHome, method: str, path: str, body: bytes = b"") -> tuple[int, str]:
    context = ssl.create_default_context(cafile=str(server.authority))
    deadline = time.monotonic() + 30
    while True:
        connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=30)
        try:
            connection.request(method, path, body=body, headers={"flwr-public-key": "abc", "Host": "fl.example.org"})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        finally:
            connection.close()


def test_nginx_forwards_a_nodes_requests_and_no_other(proxied: int, server_home: ServerHome) -> None:
    def ask(method: str, path: str, body: bytes = b"") -> tuple[int, str]:
        return _ask(proxied, server_home, method, path, body)

    assert ask("POST", "/v1/fleet/pull-messages", b"x" * 10**6) == (200, "/v1/fleet/pull-messages abc")
    assert ask("GET", "/v1/fleet/pull-messages")[0] == 403
    for path in ("/v1/control/start-run", "/v1/runtime/acquire-task", "/", "/v1/fleet", "/V1/FLEET/x", "/v1/fleetx/"):
        assert ask("POST", path)[0] == 404, path
    # A path that leads out is no node's, and one that leads in arrives as it was understood.
    for path in ("/v1/fleet/../control/start-run", "/v1/fleet/%2e%2e/control/start-run", "/v1/fleet/..%2fcontrol/x"):
        assert ask("POST", path)[0] == 404, path
    assert ask("POST", "/v1/control/../fleet/x") == (200, "/v1/fleet/x abc")
    assert ask("POST", "/v1//fleet/./x") == (200, "/v1/fleet/x abc")
    assert ask("POST", "/v1/fleet/push-object", b"x" * (17 * 2**20))[0] == 413
