"""The node's worker: takes each message, asks the owner's rules, lets the model's process answer, shows the answer to the
guard, and hands it back. Reads as that path.

    next message -> run file of the bundle -> approved and allowed now -> model's process -> guard -> log -> reply

A contribution carries the head of the node's log, and the log holds the head of the server's that came with the instruction
(`shared/protocol/log_heads.py`).

The worker is small: it holds neither the model nor the interactions. The model's process starts with the first message that
needs it and ends after `warm_minutes` without one; where it dies, the next message starts another one. Secrets of a secure
sum live in its memory alone, so a client whose process died has dropped out of that sum.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from types import MappingProxyType
from typing import Any

from flwr.app import Message, RecordDict

from client.home import NodeHome
from client.ledger.ledger import Ledger
from client.node import received
from client.node.answers import Answer
from client.node.decisions import Decisions
from client.node.guard import Guard
from client.node.model_process import Request, serve
from client.node.retention import Retention
from client.node.rules import Day, Refused, is_contribution, verify_now, verify_run
from client.node.runtime import Task
from client.node.settings import Policy, Settings
from client.provisioning import verify_kit
from client.reply_times import ReplyTime
from shared.bundle import run_file_in
from shared.errors import CheckpointError, ConfigError, PolicyRefused, PrivacyError, TacitError
from shared.protocol.distribution import CATALOG, RELEASED, ROSTER, is_held_record
from shared.protocol.log_heads import HEAD_BYTES, contribution_digest, head_in, instruction_digest, with_head
from shared.protocol.refusals import Why, refusal_record
from shared.protocol.secure_sums import ACKNOWLEDGE, OPEN, stage_of
from shared.protocol.wire import content_bytes
from shared.run_file import RunFile
from shared.secagg.identities import read_credentials

_log = logging.getLogger("tacit.node")
_DAY = 24 * 60 * 60
_SECURE_SUM = "secure_sum"
# A server chooses the names of message and round; log and refusals repeat them, and must not grow with them.
_LONGEST_NAME = 200
# By then the contribution has left and the ledger is charged: to refuse these stages would cost all others their sum, and
# take nothing back. They hold statements and shares, and nothing of the data.
_AFTER_THE_CONTRIBUTION = (ACKNOWLEDGE, OPEN)


class ModelProcess:
    """The process that holds the model, started when it is needed.

    Args:
        home: Of the node.
        warm_seconds: For how long it stays after an answer.
    """

    def __init__(self, home: NodeHome, warm_seconds: float) -> None:
        self._home, self._warm_seconds = home, warm_seconds
        self._process: Any = None
        self._pipe: Connection | None = None
        self._last = 0.0

    def answer(self, request: Request) -> Answer:
        """The answer to a request; of a process that died, an error."""
        pipe = self._started()
        try:
            pipe.send(request)
            found = pipe.recv_bytes()
        except (EOFError, OSError):
            self.stop()
            return Answer(error="The model's process ended while it answered. The next request starts another.", kind="died")
        self._last = time.monotonic()
        return Answer.from_bytes(found)

    def load(self, request: Request) -> None:
        """Loads the model of a run while nobody waits for it: the first answer then meets its deadline."""
        pipe, self._last = self._started(), time.monotonic()
        with contextlib.suppress(OSError):
            pipe.send(request)

    def let_go_if_idle(self) -> None:
        """Ends the process after its time without a request."""
        if self._process is not None and time.monotonic() - self._last > self._warm_seconds:
            self.stop()

    def stop(self) -> None:
        """Ends the process."""
        if self._pipe is not None:
            self._pipe.close()
        if self._process is not None:
            self._process.kill()
            self._process.join()
        self._process = self._pipe = None

    def _started(self) -> Connection:
        if self._pipe is not None and self._process.is_alive():
            return self._pipe
        self.stop()
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, self._home, os.getpid()), daemon=True)
        self._process.start()
        theirs.close()
        return self._pipe


class Worker:
    """Answers the messages of one node.

    Args:
        home: Of the node.
        settings: Of the owner.
        policy: Of the owner, as it is in force when a message comes.
        clock: Seconds since 1970.
    """

    def __init__(
        self, home: NodeHome, settings: Settings, policy: Callable[[], Policy], *, clock: Callable[[], float] = time.time
    ) -> None:
        self._home, self._settings, self._policy, self._clock = home, settings, policy, clock
        self._model = ModelProcess(home, 60 * settings.warm_minutes)
        self._key = read_credentials(home.identity, home.roster).signing_key
        self._decisions = Decisions(home.decisions)
        self._day = _day_of(self._decisions, int(clock()))
        self._ledger: Ledger | None = None
        self._retention = Retention(home, settings)

    def answer(self, task: Task) -> None:
        """Answers one message: with what the guard let out, or with a signed refusal.

        Guarantee:
            While an answer takes less than one `privacy.reply_bucket_seconds` of the approved run file, the time of the
            reply, of a refusal too, does not depend on the data.
        """
        message, reply_time = task.message, ReplyTime()
        run, size, bytes_per_second, bucket = "", 0, 0, 0.0
        try:
            policy = self._policy_now()
            bytes_per_second = policy.bytes_per_second
            self._verify_size(task)
            run_file = self._run_file(task, policy)
            run, bucket = run_file.digest, run_file.config.privacy.reply_bucket_seconds
            content = self._content(task, run_file, policy)
            guard = Guard(run_file, self._charged)
            size = guard.verify(message, content)
            content, size = self._let_out(message, content, run_file, size)
        except Refused as error:
            content = self._refusal(error.why, str(error), message, run)
        except PolicyRefused as error:
            content = self._refusal("guard" if size == 0 and run else "policy", str(error), message, run)
        except PrivacyError as error:
            content = self._refusal("budget", str(error), message, run)
        except TacitError as error:
            content = self._refusal("protocol", str(error), message, run)
        except Exception as error:  # whatever a message holds, the node goes on
            _log.exception("A message could not be answered")
            cause = f" ({error.strerror})" if isinstance(error, OSError) and error.strerror else ""
            content = self._refusal("failed", f"The node failed with {type(error).__name__}{cause}.", message, run)
        if bytes_per_second and size:
            time.sleep(size / bytes_per_second)
        reply_time.hold(bucket)
        task.reply(content)

    def idle(self) -> None:
        """To be called between messages: ends a model that nobody asks, deletes what the owner keeps no longer."""
        self._model.let_go_if_idle()
        self._retention.look(self._clock())

    def stop(self) -> None:
        """Ends the model's process and closes the ledger."""
        self._model.stop()
        if self._ledger is not None:
            self._ledger.close()

    def _policy_now(self) -> Policy:
        try:
            return self._policy()
        except ConfigError as error:
            _log.warning("%s", error)
            raise Refused(
                "policy", "Expected a policy that can be read, the owner has to mend it. Ask again later."
            ) from None

    def _verify_size(self, task: Task) -> None:
        size, largest = content_bytes(task.message.content) + len(task.bundle), self._settings.largest_message_bytes
        if size > largest:
            raise Refused(
                "policy",
                f"Expected a message of at most {largest} bytes, as this node's owner allows, got {size}. Ask the owner.",
            )

    def _run_file(self, task: Task, policy: Policy) -> RunFile:
        """The approved run of a message.

        Raises:
            Refused: If the owner has not approved it.
            ConfigError: If the bundle is damaged, has another digest, or holds no run file of this server.
        """
        if hashlib.sha256(task.bundle).hexdigest() != task.bundle_hash:
            raise Refused("protocol", "Expected the bundle with the digest that was announced, got another. Send it again.")
        document, now = run_file_in(task.bundle), int(self._clock())
        # Read anew each time: a renewed kit counts from the next message on, and an expired one for none.
        server = bytes.fromhex(verify_kit(self._home, now=now).server_key)
        run_file = RunFile.read(document, server=server, where="the run file")
        known = (self._home.proposals / f"{run_file.digest}.json").exists()
        try:
            verify_run(self._home, run_file, policy, now=now)
        except Refused as error:
            if not known and error.why == "not-approved":
                short = run_file.digest[:16]
                _log.warning("Run %s (%s) was proposed; `tacit node approve %s` shows it.", short, run_file.name, short)
            raise
        return run_file

    def _content(self, task: Task, run_file: RunFile, policy: Policy) -> RecordDict:
        """What the node would say."""
        message = task.message
        kind = message.metadata.message_type.partition(".")[2]
        if kind == CATALOG:
            held = received.catalog(self._home, run_file, message)
            if is_held_record(held, True):
                self._model.load(Request(None, None, run_file.document.to_bytes(), run_file.document.signer))
            return held
        expected = max(run_file.message_bytes.values(), default=0)
        if kind == ROSTER:
            held = received.roster(self._home, message)
            # A node that would refuse now says so before any node is asked: else the others would be charged in vain.
            verify_now(policy, self._day, now=int(self._clock()), size=expected)
            return held
        if kind == RELEASED:
            return received.released(self._home, run_file, message, now=int(self._clock()))
        if kind != _SECURE_SUM or stage_of(message) not in _AFTER_THE_CONTRIBUTION:
            verify_now(policy, self._day, now=int(self._clock()), size=expected)
        request = Request(message, task.context, run_file.document.to_bytes(), run_file.document.signer)
        answer = self._model.answer(request)
        if answer.content is None:
            raise Refused(_why(answer.kind), answer.error)
        return answer.content

    def _charged(self, run: str, purpose: str, round_number: int) -> bool:
        if self._ledger is None:
            self._ledger = Ledger(self._home.ledger)
        return self._home.ledger.exists() and self._ledger.charged(run, purpose, round_number)

    def _refusal(self, why: Why, reason: str, message: Message, run: str) -> RecordDict:
        try:
            self._decided("refused", message, run, why=why, reason=reason)
        except (OSError, CheckpointError) as error:  # a refusal holds nothing of this node's data
            _log.warning("A refusal could not be written down (%s)", type(error).__name__)
        return refusal_record(
            why,
            reason,
            node=self._settings.name,
            run=run,
            message_type=message.metadata.message_type[:_LONGEST_NAME],
            group=message.metadata.group_id[:_LONGEST_NAME],
            now=int(self._clock()),
            key=self._key,
        )

    def _let_out(self, message: Message, content: RecordDict, run_file: RunFile, size: int) -> tuple[RecordDict, int]:
        """Writes down what leaves; a contribution then carries the head of a log that holds it.

        Returns:
            The reply, and its bytes.
        """
        if not is_contribution(message.metadata.message_type):
            self._decided("sent", message, run_file.digest, size=size)
            return content, size
        plan, size = run_file.plan, size + HEAD_BYTES
        exchanged = {
            "server_head": head_in(message),
            "instruction": instruction_digest(message.content, plan),
            "contribution": contribution_digest(content, plan),
        }
        return with_head(content, self._decided("sent", message, run_file.digest, size=size, exchanged=exchanged)), size

    def _decided(
        self,
        decision: str,
        message: Message,
        run: str,
        *,
        size: int = 0,
        why: str = "",
        reason: str = "",
        exchanged: Mapping[str, str | None] = MappingProxyType({}),
    ) -> str:
        """Writes a decision down before the reply leaves; returns the head of the log."""
        now = int(self._clock())
        body = {
            "time": now,
            "decision": decision,
            "run": run,
            "message_type": message.metadata.message_type[:_LONGEST_NAME],
            "group": message.metadata.group_id[:_LONGEST_NAME],
            "bytes": size,
            **({"why": why, "reason": reason} if why else {}),
            **exchanged,
        }
        head = self._decisions.append(body)
        _log.info("%s %s of round %s, %d bytes %s", decision, body["message_type"], body["group"], size, reason)
        if decision == "sent":
            self._day.add(now, size, contribution=is_contribution(message.metadata.message_type))
        return head


def _why(kind: str) -> Why:
    """The kind of a refusal, by the error that the model's process gave."""
    if kind in ("BudgetExceeded", "PrivacyError", "SensitivityError"):
        return "budget"
    if kind == "PolicyRefused":
        return "policy"
    return "protocol" if kind in ("ProtocolViolation", "ShareRequestRefused", "CohortTooSmall") else "failed"


def _day_of(decisions: Decisions, now: int) -> Day:
    """What left in the last 24 hours, by the log: a restart forgets none of it."""
    day = Day()
    for body in decisions.read():
        if body.get("decision") == "sent" and body.get("time", 0) > now - _DAY:
            day.add(body["time"], body["bytes"], contribution=is_contribution(body["message_type"]))
    return day
