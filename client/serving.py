"""The endpoint for applications of this machine: they log interactions as they happen, and ask for recommendations.

    POST /interactions   {"user": ..., "item": ..., "timestamp": ...}, or a list of such
                         -> {"added": n, "known": n, "expired": n}
    GET  /recommend      ?user=...&k=10 -> {"items": [...]}
    GET  /health         -> {"status": "ok"}

What goes wrong is answered as {"error": LINE}; a line never quotes an id. A request is added whole or not at all, and may be
repeated without harm.

Guarantee:
    Nobody on another machine reaches it, and nobody on this one but who can open its files: it listens on a Unix socket of
    mode 0600, or on a loopback address, where every request but `/health` needs the token of a file of mode 0600.

What never lives here: the database (`store/`), a model: a `Recommend` is handed in. Nothing is sent anywhere. Requests are
not logged, since their addresses hold user ids.
"""

from __future__ import annotations

import asyncio
import errno
import hmac
import ipaddress
import os
import secrets
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import uvicorn
from pydantic_core import from_json
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from client.store.ingest import ROLES, rows_of_objects, spelled, usable
from client.store.interactions import SECONDS_A_DAY, Added, InteractionStore
from shared.errors import ConfigError, NothingReceived, StoreUnavailable, TacitError

# The best k items for a user, best first: what `GET /recommend` answers for each of them, e.g. item, text and score.
Recommend = Callable[[str, int], Sequence[Mapping[str, Any]]]

LARGEST_BODY: Final = 8 * 2**20
LARGEST_K: Final = 1000
_TOKEN_BYTES: Final = 32
_NOTHING_RELEASED: Final = (
    "Expected a released recommender on this node, found none yet. Interactions are taken all the same; ask again once a "
    "run has ended."
)


def application(store: InteractionStore, *, recommend: Recommend | None = None, token: str | None = None) -> Starlette:
    """The endpoint.

    Args:
        store: The interactions. (private)
        recommend: The model; None while there is none.
        token: What each request has to show; None where only the owner can connect.
    """
    one_writer = asyncio.Lock()

    async def interactions(request: Request) -> Response:
        values = _parsed(await _body(request))
        async with one_writer:
            added = await run_in_threadpool(_add, store, values)
        return JSONResponse(vars(added))

    async def recommended(request: Request) -> Response:
        user, k = _asked(request)
        if recommend is None:
            raise HTTPException(503, _NOTHING_RELEASED)
        return JSONResponse({"items": [dict(item) for item in await run_in_threadpool(recommend, user, k)]})

    async def health(_: Request) -> Response:
        await run_in_threadpool(store.revision)
        return JSONResponse({"status": "ok"})

    @asynccontextmanager
    async def pruned_daily(_: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(_prune_daily(store, one_writer))
        yield
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    return Starlette(
        routes=[
            Route("/interactions", _answering(interactions, token), methods=["POST"]),
            Route("/recommend", _answering(recommended, token), methods=["GET"]),
            Route("/health", _answering(health, None), methods=["GET"]),
        ],
        exception_handlers={HTTPException: _refused},
        lifespan=pruned_daily,
    )


def serve(app: Starlette, listening: socket.socket) -> None:
    """Answers until SIGTERM or Ctrl-C.

    Args:
        app: What `application` gave.
        listening: What `on_unix_socket` or `on_loopback` gave; closed at the end.
    """
    place = listening.getsockname()
    try:
        server_of(app).run(sockets=[listening])
    finally:
        listening.close()
        if isinstance(place, str):
            Path(place).unlink(missing_ok=True)


def server_of(app: Starlette) -> uvicorn.Server:
    """What answers; it logs nothing."""
    settings = uvicorn.Config(
        app, log_config=None, access_log=False, ws="none", server_header=False, limit_concurrency=128, timeout_keep_alive=30
    )
    return uvicorn.Server(settings)


def on_unix_socket(path: Path) -> socket.socket:
    """Listens on a Unix socket that its owner alone can open.

    Raises:
        ConfigError: If something else is there, another process listens, or the path cannot be one of a socket.
    """
    if path.exists() and not stat.S_ISSOCK(path.stat().st_mode):
        raise ConfigError(
            f"Expected a new path for the socket, found a file named {path.name} there. Name another --socket."
        )
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.exists():
            _verify_unused(path)
            path.unlink()  # of a process that ended without removing it
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        before = os.umask(0o177)  # a socket has its mode from its first moment
        try:
            opened.bind(str(path))
        finally:
            os.umask(before)
        opened.listen(socket.SOMAXCONN)
    except OSError as error:
        opened.close()
        raise ConfigError(
            f"Expected a path that can be a socket, got one that cannot ({error.strerror or error}). Name a shorter "
            "--socket in a folder that can be written."
        ) from None
    except BaseException:
        opened.close()
        raise
    return opened


def on_loopback(host: str, port: int) -> socket.socket:
    """Listens on a loopback address of this machine.

    Args:
        host: An address, not a name: what a name stands for can change.
        port: 0: any that is free.

    Raises:
        ConfigError: If the address is reached from other machines, or the port is in use.
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    if address is None or not address.is_loopback:
        raise ConfigError(
            f"Expected --host to be a loopback address, got --host={host}. Use 127.0.0.1 or ::1, or a Unix socket; for "
            "other machines there is no endpoint."
        )
    opened = socket.socket(socket.AF_INET6 if address.version == 6 else socket.AF_INET, socket.SOCK_STREAM)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((str(address), port))
        opened.listen(socket.SOMAXCONN)
    except OSError as error:
        opened.close()
        in_use = error.errno == errno.EADDRINUSE
        raise ConfigError(
            f"Expected a free --port, got --port={port} ({'in use' if in_use else error.strerror}). Choose another, or 0 "
            "for any that is free."
        ) from None
    return opened


def token_of(path: Path) -> str:
    """The token in a file that only its owner can read; made where there is none. (private)

    Raises:
        ConfigError: If others can read it, or it holds something else.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with suppress(FileExistsError), os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write(secrets.token_urlsafe(_TOKEN_BYTES) + "\n")
    if path.stat().st_mode & 0o077:
        raise ConfigError(f"Expected {path.name} to be readable for its owner alone, got a wider mode. Run chmod 600 on it.")
    token = path.read_bytes().strip()
    if len(token) < _TOKEN_BYTES or not token.isascii():
        raise ConfigError(
            f"Expected a token of {_TOKEN_BYTES} characters or more in {path.name}, got less. Delete the file."
        )
    return token.decode()


def _answering(
    answer: Callable[[Request], Awaitable[Response]], token: str | None
) -> Callable[[Request], Awaitable[Response]]:
    """Answers, once the token was shown, and turns whatever goes wrong into a status and one line."""

    async def answered(request: Request) -> Response:
        if token is not None and not hmac.compare_digest(
            request.headers.get("authorization", "").encode(), f"Bearer {token}".encode()
        ):
            raise HTTPException(
                401, "Expected the header 'Authorization: Bearer TOKEN', with the token of keys/serve.token."
            )
        try:
            return await answer(request)
        except (StoreUnavailable, NothingReceived) as error:
            raise HTTPException(503, str(error)) from None
        except TacitError as error:
            raise HTTPException(400, str(error)) from None
        except HTTPException:
            raise
        except Exception as error:  # whose words may quote an id, and would be logged
            raise HTTPException(500, f"Expected an answer, got an error of type {type(error).__name__}.") from None

    return answered


async def _refused(_: Request, error: Exception) -> Response:
    refusal = error if isinstance(error, HTTPException) else HTTPException(500)
    return JSONResponse({"error": refusal.detail}, status_code=refusal.status_code, headers=refusal.headers)


async def _body(request: Request) -> bytes:
    """The body of a request, never more of it than is taken."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > LARGEST_BODY:
            raise HTTPException(413, f"Expected a body of at most {LARGEST_BODY} bytes, got more. Send it in pieces.")
    return bytes(body)


def _parsed(body: bytes) -> list[Any]:
    try:
        value = from_json(body, allow_inf_nan=False)
    except ValueError:
        raise HTTPException(400, "Expected JSON, got something else. Send an object, or a list of objects.") from None
    values = value if isinstance(value, list) else [value]
    if not values:
        raise HTTPException(400, "Expected at least one interaction, got 0. Send an object, or a list of objects.")
    return values


def _add(store: InteractionStore, values: Sequence[Any]) -> Added:
    rows = rows_of_objects(values, {role: role for role in ROLES}, range(1, len(values) + 1), unit="object")
    frame = usable(rows, source="the request", advice="Correct it, then send all of them again.")
    with store.adding() as add:
        return add(frame)


def _asked(request: Request) -> tuple[str, int]:
    user, k = request.query_params.get("user", ""), request.query_params.get("k", "10")
    if not user:
        raise HTTPException(400, "Expected a user, got none. Ask for /recommend?user=ID&k=10.")
    if not (k.isascii() and k.isdigit() and 1 <= int(k[:9]) <= LARGEST_K and len(k) < 9):
        raise HTTPException(400, f"Expected k to be a whole number from 1 to {LARGEST_K}, got another. Ask for k=10.")
    return spelled(user), int(k)


async def _prune_daily(store: InteractionStore, one_writer: asyncio.Lock) -> None:
    while True:
        with suppress(StoreUnavailable):  # another day will do
            async with one_writer:
                await run_in_threadpool(store.prune_if_due)
        await asyncio.sleep(SECONDS_A_DAY / 24)


def _verify_unused(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return
    raise ConfigError(f"Expected a socket that no process listens on, found one at work at {path.name}. End it first.")
