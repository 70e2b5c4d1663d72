"""A federation of processes: runs, what a killed server and a killed node come to, who is refused, and how it ends.

What kills processes takes minutes and is a soak test.
"""

from __future__ import annotations

import datetime
import os
import shutil
import signal
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.proto.node_pb2 import Node  # type: ignore[attr-defined]
from flwr.proto.run_pb2 import GetRunRequest  # type: ignore[attr-defined]
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.interceptors.http.utils import add_headers
from flwr.supercore.primitives.asymmetric import sign_message
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from client.ledger.ledger import Ledger
from server.home import ServerHome
from server.provisioning import members
from tests.deployment import Deployment, deployment, eventually, released_tensors

NODES = 5
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory, tiny_bert: str) -> Iterator[Deployment]:
    with deployment(tmp_path_factory.mktemp("federation"), tiny_bert, NODES) as made:
        made.start_server()
        for home in made.nodes:
            made.start_node(home)
        yield made


def test_a_private_run_ends_with_the_same_recommender_on_every_node(federation: Deployment) -> None:
    run = federation.begin("private", **{"federation.rounds": 1, "statistics.releases": "pairs"})
    state = federation.ended(run)
    assert (state.state, state.reason) == ("finished", "")
    folder = federation.server.runs / run
    for name in ("release.json", "release.html", "config.json", "adapter/manifest.json"):
        assert (folder / name).is_file()
    for home in federation.nodes:
        (received,) = eventually(lambda home=home: list(home.released.glob("*/adapter")))  # type: ignore[misc]
        assert released_tensors(received) == released_tensors(folder / "adapter")
        # The ledger counts what left, and what left is what the ledger was charged for.
        ledger = Ledger(home.ledger)
        (account,) = ledger.accounts()
        sent = [one for one in federation.decisions(home, "sent") if one["bytes"] > 8]
        assert account.entries == len(sent) >= 4
        assert 0 < (ledger.epsilons(account.spent)["known_participation"] or 0) <= 8
        assert federation.decisions(home, "refused") == []
    answered = [event["clients_answered"] for event in federation.events(run) if event["event"] == "round"]
    assert answered == [NODES]


class Signed(NodeAuthHttpInterceptor):
    """Signs requests as a SuperNode does, by a clock that is so many seconds ahead."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, ahead: float = 0.0) -> None:
        super().__init__(key, key.public_key())
        self._key, self._ahead = key, ahead

    def intercept(self, context: Any, call_next: Any) -> Any:
        time = (datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=self._ahead)).isoformat()
        signature = sign_message(self._key, time.encode())
        headers = {FLEET_HTTP_PUBLIC_KEY_HEADER: self._public_key_bytes, FLEET_HTTP_SIGNATURE_HEADER: signature}
        add_headers(context.request, {name: b64encode(value).decode() for name, value in headers.items()})
        add_headers(context.request, {TIMESTAMP_HEADER: time})
        return call_next(context)


def _says(federation: Deployment, signed: Signed, authority: Path | None = None) -> str:
    """What the server says to somebody who wants to connect as a node."""
    address, root = f"localhost:{federation.port}", (authority or federation.server.authority).read_bytes()
    interceptors = [RuntimeVersionHttpInterceptor(component_name="SuperNode"), signed]
    with FleetHttpClient.from_server_address(address, False, root, interceptors=interceptors) as client:
        try:
            client.GetRun(GetRunRequest(node=Node(node_id=1), run_id=1))
        except Exception as error:
            return f"{type(error).__name__}: {error} {error.__cause__}"
    return "answered"


def test_who_is_not_registered_has_another_clock_or_another_authority_is_refused(
    federation: Deployment, another_server: ServerHome
) -> None:
    """A stranger's key, a node's key by a clock of another hour, a server of another authority; signed requests over TLS."""
    stranger = ec.generate_private_key(ec.SECP384R1())
    own = load_ssh_private_key(federation.nodes[0].supernode_key.read_bytes(), None)
    assert isinstance(own, ec.EllipticCurvePrivateKey)
    assert "401" in _says(federation, Signed(stranger))
    for ahead in (-3600.0, 3600.0):
        assert "401" in _says(federation, Signed(own, ahead))
    assert "CERTIFICATE_VERIFY_FAILED" in _says(federation, Signed(own), another_server.authority)


@pytest.mark.soak
@pytest.mark.faults
def test_a_killed_server_app_goes_on_where_it_was_and_ends_with_the_same_bits(federation: Deployment) -> None:
    settings = {"federation.rounds": 2, "statistics.releases": "none"}
    whole = federation.begin("whole", reproducible=True, **settings)
    assert federation.ended(whole).state == "finished"

    broken = federation.begin("broken", reproducible=True, **settings)
    eventually(lambda: any(event["event"] == "round" for event in federation.events(broken)))
    os.kill(federation.state(broken).pid, signal.SIGKILL)
    interrupted = eventually(lambda: (now := federation.state(broken)).state == "interrupted" and now)
    assert "without a word" in interrupted.reason  # type: ignore[union-attr]
    rounds_before = [event["round_number"] for event in federation.events(broken) if event["event"] == "round"]
    resumed = federation.tacit("server", "run", "--resume", broken, "--server", federation.server.path)
    assert resumed["status"] == 0, resumed
    assert federation.ended(broken).state == "finished"
    rounds = [event["round_number"] for event in federation.events(broken) if event["event"] == "round"]
    assert rounds[: len(rounds_before)] == rounds_before
    assert rounds == [1, 2]
    folders = [federation.server.runs / run / "adapter" for run in (whole, broken)]
    assert released_tensors(folders[0]) == released_tensors(folders[1])


@pytest.mark.faults
def test_a_killed_superlink_comes_back_and_the_run_goes_on_with_the_same_nodes(federation: Deployment) -> None:
    settings = {"federation.rounds": 3, "statistics.releases": "none"}
    run = federation.begin("superlink", reproducible=True, **settings)
    eventually(lambda: federation.events(run, "round"))
    federation.kill("server")
    eventually(lambda: not federation.left_of_server(), seconds=30)
    assert federation.state(run).state in ("interrupted", "failed")
    rounds = [one["round_number"] for one in federation.events(run, "round")]
    federation.start_server()
    found = federation.tacit("server", "status", "--server", federation.server.path)
    assert set(found["nodes"].values()) == {"active"}
    resumed = federation.tacit("server", "run", "--resume", run, "--server", federation.server.path)
    assert resumed["status"] == 0, resumed
    assert federation.ended(run).state == "finished", federation.state(run)
    events = federation.events(run, "round")
    assert [one["round_number"] for one in events][: len(rounds)] == rounds
    assert [one["round_number"] for one in events] == [1, 2, 3]
    assert events[-1]["clients_answered"] == NODES


@pytest.mark.faults
def test_a_server_that_is_told_to_end_in_the_middle_of_a_run_ends_with_all_its_processes(federation: Deployment) -> None:
    run = federation.begin("ended", reproducible=True, **{"federation.rounds": 3, "statistics.releases": "none"})
    eventually(lambda: federation.state(run).state == "running")
    assert federation.left_of_server()
    assert federation.end("server") in (0, 130, 143)
    eventually(lambda: not federation.left_of_server(), seconds=30)
    assert federation.state(run).state in ("interrupted", "stopped", "failed")
    federation.start_server()


@pytest.mark.faults
def test_a_server_app_that_starts_after_its_server_has_ended_ends_too() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    code = "import time; from server.deployment import _end_with_server; _end_with_server(); time.sleep(300)"
    environment = {**os.environ, "TACIT_SERVER_PROCESS": str(gone.pid)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, timeout=120).returncode == 1


@pytest.mark.faults
def test_a_model_process_that_is_killed_loses_one_answer_and_the_next_request_starts_another(federation: Deployment) -> None:
    node = federation.nodes[4]

    def model() -> list[psutil.Process]:
        parent = psutil.Process(federation.processes[node.path.name].pid)
        return [one for one in parent.children() if "spawn_main" in " ".join(one.cmdline())]

    run = federation.begin(
        "model", **{"federation.rounds": 2, "federation.minimum_clients": 2, "statistics.releases": "none"}
    )
    eventually(model)[0].kill()
    assert federation.ended(run).state == "finished", federation.state(run)
    answered = [one["clients_answered"] for one in federation.events(run, "round")]
    assert answered[-1] == NODES
    assert len(model()) == 1


@pytest.mark.faults
@pytest.mark.skipif(shutil.which("unshare") is None or os.geteuid() != 0, reason="needs a network of its own, as root")
def test_a_run_needs_no_network_but_the_one_between_its_machines() -> None:
    """The private run above, in a network of its own that has loopback and no route."""
    test = f"{__file__}::{test_a_private_run_ends_with_the_same_recommender_on_every_node.__name__}"
    inside = f"ip link set lo up && ! ip route get 192.0.2.1 && exec {sys.executable} -m pytest -q {test}"
    done = subprocess.run(["unshare", "-n", "sh", "-c", inside], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "1 passed" in done.stdout


@pytest.mark.soak
@pytest.mark.faults
def test_a_round_goes_on_without_a_killed_a_revoked_and_an_unwilling_node(federation: Deployment) -> None:
    killed, revoked, unwilling = federation.nodes[:3]
    unwilling_before = len(federation.decisions(unwilling, "sent"))
    unwilling.policy.write_text('approve = "by-hand"\n')
    federation.end(unwilling.path.name)
    federation.start_node(unwilling)
    run = federation.begin(
        "smaller", **{"federation.rounds": 2, "federation.minimum_clients": 2, "statistics.releases": "none"}
    )
    eventually(lambda: any(event["event"] == "asked" for event in federation.events(run)))
    federation.kill(killed.path.name)
    members.revoke(federation.server, revoked.path.name, now=1)
    state = federation.ended(run)
    assert state.state == "finished", state.reason
    answered = [event["clients_answered"] for event in federation.events(run) if event["event"] == "round"]
    assert answered[-1] == 2

    # The owner finds what was refused, and nothing left but bits and refusals.
    refusals = federation.decisions(unwilling, "refused")
    assert {one["why"] for one in refusals} == {"not-approved"}
    assert all(one["bytes"] <= 8 for one in federation.decisions(unwilling, "sent")[unwilling_before:])
    proposed = federation.tacit("node", "approve", "--home", unwilling.path)["runs"]
    assert "smaller" in {one["name"] for one in proposed if one["state"] == "proposed"}
    # A killed node leaves nobody behind.
    eventually(
        lambda: not [one for one in federation.leftovers() if str(killed.path) in " ".join(one.cmdline())], seconds=30
    )
    # Spend is never under-counted: whatever the killed node sent, its ledger holds.
    names = [name for name in ("private", "model", run) if (federation.server.runs / name).is_dir()]
    private = {federation.digest(name) for name in names}
    sent = [one for one in federation.decisions(killed, "sent") if one["bytes"] > 8 and one["run"] in private]
    accounts = Ledger(killed.ledger).accounts() if killed.ledger.exists() else ()  # it may have been asked for nothing yet
    assert sum(account.entries for account in accounts) >= len(sent)


def test_everything_ends_with_sigterm(federation: Deployment) -> None:
    running = [name for name, process in federation.processes.items() if process.poll() is None]
    assert {"server", *(home.path.name for home in federation.nodes[1:])} <= set(running)
    for name in sorted(running):  # the nodes before the server
        assert federation.end(name) in (0, 130, 143)
    eventually(lambda: not federation.leftovers(), seconds=30)
