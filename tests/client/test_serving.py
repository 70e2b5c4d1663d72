"""The endpoint over real sockets: what it takes, what it refuses, who reaches it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from client import serving
from client.serving import LARGEST_BODY, Recommend, application, on_loopback, on_unix_socket, server_of, token_of
from client.store.interactions import SECONDS_A_DAY, InteractionStore
from shared.errors import ConfigError, DataError
from tests.running import ROOT

TIME = 1_600_000_000
ONE = {"user": "u", "item": "a", "timestamp": TIME}
HIDDEN = "hush"


class OverUnixSocket(http.client.HTTPConnection):
    """HTTP to a path."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(30)
        self.sock.connect(str(self._path))


@pytest.fixture
def store(tmp_path: Path) -> InteractionStore:
    store = InteractionStore(tmp_path / "node" / "interactions.sqlite", timeout_seconds=0.05)
    store.create()
    return store


@contextmanager
def serving_at(
    listening: socket.socket, store: InteractionStore, *, recommend: Recommend | None = None, token: str | None = None
) -> Iterator[None]:
    server = server_of(application(store, recommend=recommend, token=token))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        deadline = time.monotonic() + 30
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.005)
        assert server.started
        yield
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


@pytest.fixture
def place(tmp_path: Path, store: InteractionStore) -> Iterator[Path]:
    """A socket at which the node answers."""
    path = tmp_path / "serve.sock"
    with serving_at(on_unix_socket(path), store, recommend=best):
        yield path


def best(user: str, k: int) -> Sequence[Mapping[str, Any]]:
    if user == "unheard of":
        raise DataError("Expected a user of this node, found none of that id.")
    if user == HIDDEN:
        raise KeyError(user)
    return [{"item": f"item-{place}", "text": f"for {user}", "score": 1.0 / (1 + place)} for place in range(k)]


def ask(
    at: Path | int, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
) -> tuple[int, Any]:
    """Status and JSON of one request to a socket or a port."""
    connection = OverUnixSocket(at) if isinstance(at, Path) else http.client.HTTPConnection("127.0.0.1", at, timeout=30)
    content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    connection.request(method, path, content, dict(headers or {}))
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, json.loads(text) if answer.headers["content-type"] == "application/json" else text


def test_interactions_are_added_one_by_one_or_several_at_once(place: Path, store: InteractionStore) -> None:
    assert ask(place, "POST", "/interactions", ONE) == (200, {"added": 1, "known": 0, "expired": 0})
    assert ask(place, "POST", "/interactions", ONE) == (200, {"added": 0, "known": 1, "expired": 0})
    several = [ONE, {**ONE, "item": 7, "timestamp": "2020-09-13T12:26:40Z", "more": {}}, {**ONE, "user": "v"}]
    assert ask(place, "POST", "/interactions", several) == (200, {"added": 2, "known": 1, "expired": 0})
    assert sorted(store.read().iter_rows()) == [("u", "7", TIME), ("u", "a", TIME), ("v", "a", TIME)]


def test_requests_at_once_lose_nothing(place: Path, store: InteractionStore) -> None:
    answers: list[tuple[int, Any]] = []

    def log(number: int) -> None:
        rows = [{**ONE, "user": f"user-{number}", "timestamp": TIME + moment} for moment in range(20)]
        answers.append(ask(place, "POST", "/interactions", rows))

    threads = [threading.Thread(target=log, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [(200, {"added": 20, "known": 0, "expired": 0})] * 8
    assert (store.contents().interactions, store.contents().users) == (160, 8)


WRONG: dict[str, tuple[Any, str]] = {
    "no JSON": (HIDDEN.encode(), "Expected JSON, got something else."),
    "half of it": (b'{"user": "hush', "Expected JSON, got something else."),
    "too deep": (b"[" * 100_000, "Expected JSON, got something else."),
    "nothing": (b"", "Expected JSON, got something else."),
    "no interaction": ([], "Expected at least one interaction, got 0."),
    "no object": (HIDDEN, "Expected a user id in every object of the request, found none that can be read in object 1."),
    "no user": (
        [ONE, {"item": HIDDEN, "timestamp": 1}],
        "Expected a user id in every object of the request, found none that",
    ),
    "no time": ({"user": HIDDEN, "item": HIDDEN}, "Expected a time from 1970 on in every object of the request"),
    "a list": ([ONE, {**ONE, "item": [HIDDEN]}], "Expected an item id in every object of the request"),
    "half a character": (b'{"user": "\\ud800", "item": "a", "timestamp": 1}', "Expected JSON, got something else."),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_request_gets_one_line_quotes_nothing_and_changes_nothing(
    place: Path, store: InteractionStore, name: str
) -> None:
    body, message = WRONG[name]
    status, answer = ask(place, "POST", "/interactions", body)
    assert status == 400 and answer["error"].startswith(message)
    assert HIDDEN not in answer["error"] and "\n" not in answer["error"]
    assert store.contents().interactions == 0


def test_a_body_that_is_too_large_is_refused_and_not_kept(place: Path, store: InteractionStore) -> None:
    status, answer = ask(place, "POST", "/interactions", b" " * (LARGEST_BODY + 1))
    assert (status, answer["error"]) == (
        413,
        f"Expected a body of at most {LARGEST_BODY} bytes, got more. Send it in pieces.",
    )
    assert store.contents().interactions == 0
    assert ask(place, "GET", "/health") == (200, {"status": "ok"})


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/interactions", 405), ("GET", "/elsewhere", 404)])
def test_other_methods_and_paths_are_refused(place: Path, method: str, path: str, status: int) -> None:
    found, answer = ask(place, method, path)
    assert found == status and set(answer) == {"error"}


def test_recommendations_are_the_model_s(place: Path) -> None:
    expected = [{"item": "item-0", "text": "for u v", "score": 1.0}, {"item": "item-1", "text": "for u v", "score": 0.5}]
    assert ask(place, "GET", "/recommend?user=u%20v&k=2") == (200, {"items": expected})
    assert len(ask(place, "GET", "/recommend?user=u")[1]["items"]) == 10


@pytest.mark.parametrize(
    ("query", "status", "message"),
    [
        ("", 400, "Expected a user, got none."),
        ("k=3", 400, "Expected a user, got none."),
        ("user=u&k=0", 400, "Expected k to be a whole number from 1 to 1000, got another."),
        ("user=u&k=1001", 400, "Expected k to be a whole number from 1 to 1000, got another."),
        ("user=u&k=-1", 400, "Expected k to be a whole number"),
        ("user=u&k=" + "9" * 5000, 400, "Expected k to be a whole number"),
        ("user=u&k=%C2%B2", 400, "Expected k to be a whole number"),
        ("user=unheard%20of", 400, "Expected a user of this node, found none of that id."),
        (f"user={HIDDEN}", 500, "Expected an answer, got an error of type KeyError."),
    ],
)
def test_a_wrong_question_gets_one_line(
    place: Path, query: str, status: int, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    found, answer = ask(place, "GET", f"/recommend?{query}")
    assert found == status and answer["error"].startswith(message)
    assert capfd.readouterr() == ("", ""), "nothing is logged, since addresses and errors may hold ids"


def test_without_a_model_the_question_is_put_off(tmp_path: Path, store: InteractionStore) -> None:
    path = tmp_path / "serve.sock"
    with serving_at(on_unix_socket(path), store):
        status, answer = ask(path, "GET", "/recommend?user=u")
        assert status == 503 and answer["error"].startswith("Expected a released recommender on this node, found none yet.")
        assert ask(path, "POST", "/interactions", ONE)[0] == 200


def test_a_database_that_is_locked_or_gone_is_told_and_the_next_request_may_do(place: Path, store: InteractionStore) -> None:
    with store.adding():
        status, answer = ask(place, "POST", "/interactions", ONE)
        assert status == 503 and "database is locked" in answer["error"]
    assert ask(place, "POST", "/interactions", ONE)[0] == 200
    store.path.rename(store.path.with_name("moved"))
    assert ask(place, "GET", "/health")[0] == ask(place, "POST", "/interactions", ONE)[0] == 503
    store.path.with_name("moved").rename(store.path)
    assert ask(place, "GET", "/health")[0] == 200


def test_on_loopback_every_request_but_health_needs_the_token(tmp_path: Path, store: InteractionStore) -> None:
    token = token_of(tmp_path / "keys" / "serve.token")
    listening = on_loopback("127.0.0.1", 0)
    port = listening.getsockname()[1]
    with serving_at(listening, store, recommend=best, token=token):
        for headers in ({}, {"Authorization": "Bearer "}, {"Authorization": f"Bearer {token}x"}, {"Authorization": token}):
            for method, path in (("POST", "/interactions"), ("GET", "/recommend?user=u")):
                status, answer = ask(port, method, path, ONE, headers)
                assert status == 401 and answer["error"].startswith("Expected the header 'Authorization: Bearer TOKEN'")
                assert token not in answer["error"]
        assert store.contents().interactions == 0
        assert ask(port, "GET", "/health")[0] == 200
        assert ask(port, "POST", "/interactions", ONE, {"Authorization": f"Bearer {token}"})[0] == 200
        assert ask(port, "GET", "/recommend?user=u", None, {"authorization": f"Bearer {token}"})[0] == 200
        with pytest.raises(ConfigError, match=rf"^Expected a free --port, got --port={port} \(in use\)"):
            on_loopback("127.0.0.1", port)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "localhost", "example.org", "127.0.0.1.example.org", ""])
def test_no_other_address_than_loopback_is_listened_on(host: str) -> None:
    with pytest.raises(ConfigError, match=r"^Expected --host to be a loopback address, got --host="):
        on_loopback(host, 0)


def test_a_unix_socket_is_for_its_owner_alone_and_is_not_taken_from_a_process_at_work(
    place: Path, store: InteractionStore
) -> None:
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    with pytest.raises(ConfigError, match=r"found one at work at serve\.sock"):
        on_unix_socket(place)
    assert ask(place, "GET", "/health")[0] == 200


def test_what_a_dead_process_left_is_replaced_and_a_file_is_not(tmp_path: Path) -> None:
    path = tmp_path / "serve.sock"
    on_unix_socket(path).close()
    assert path.exists()
    on_unix_socket(path).close()
    file = tmp_path / "file"
    file.write_text("somebody's")
    with pytest.raises(ConfigError, match="found a file named file there"):
        on_unix_socket(file)
    assert file.read_text() == "somebody's"
    with pytest.raises(ConfigError, match=r"got one that cannot \(AF_UNIX path too long\)"):
        on_unix_socket(tmp_path / ("long" * 40))


def test_a_token_is_drawn_once_and_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "serve.token"
    token = token_of(path)
    assert token_of(path) == token != token_of(tmp_path / "other.token") and len(token) >= 43
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    with pytest.raises(ConfigError, match=r"Expected serve\.token to be readable for its owner alone"):
        token_of(path)
    path.write_text("short\n")
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="Expected a token of 32 characters or more"):
        token_of(path)


def test_old_interactions_are_dropped_while_it_serves_and_are_not_taken(tmp_path: Path) -> None:
    now = [float(TIME)]
    store = InteractionStore(tmp_path / "interactions.sqlite", retention_days=1, clock=lambda: now[0])
    store.create()
    with store.adding() as add:
        add(serving.usable(serving.rows_of_objects([ONE], {name: name for name in ONE}, [1], unit="object"), source="test"))
    now[0] += 2 * SECONDS_A_DAY
    path = tmp_path / "serve.sock"
    with serving_at(on_unix_socket(path), store):
        deadline = time.monotonic() + 30
        while store.contents().interactions and time.monotonic() < deadline:
            time.sleep(0.01)
        assert store.contents().interactions == 0
        assert ask(path, "POST", "/interactions", ONE) == (200, {"added": 0, "known": 0, "expired": 1})


def test_the_command_serves_until_it_is_told_to_end(tmp_path: Path) -> None:
    """The whole program as an owner starts it, with SIGTERM; the socket goes with it."""
    command = [
        sys.executable,
        "-c",
        "import tacit; tacit.main()",
        "node",
        "serve",
        "--home",
        str(tmp_path / "node"),
        "--json",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=os.environ)
    try:
        said = []
        assert process.stdout is not None
        while not said or said[-1] != "}\n":
            said.append(process.stdout.readline())
            assert said[-1], process.communicate()[1]
        path = Path(json.loads("".join(said))["socket"])
        assert path == tmp_path / "node" / "serve.sock" and stat.S_IMODE(path.stat().st_mode) == 0o600
        assert ask(path, "POST", "/interactions", ONE)[0] == 200
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 143, stderr
    assert "Traceback" not in stderr and not path.exists()
    assert InteractionStore(tmp_path / "node" / "interactions.sqlite").users() == ["u"]
