"""The ledger that a device owns: every event that cost its users privacy, written down before data is read.

It stores events, never epsilons: an epsilon follows from all events together, and summing epsilons of unlike runs
overstates them (or understates, where a counter is reset). A round is *reserved* before any data is read, and counts from
then on; it is set free only by the process that reserved it, and only when nothing left the device. What a crash leaves
reserved counts as spent. Events of all rounds, runs and software versions count together, and all are about the same data,
unit, relation and delta. The data are known by the name that their owner gave them, and may grow.

The owner of the device sets the limits (`limits.py`), never a server. At every message the whole plan of the run is held
against them, so a plan that asks for more is refused before its first release. Epsilons are computed without amplification
by the server's sampling, because a device cannot verify that it stayed secret.

On a node one file holds one ledger. In a simulation one file holds those of all clients; `owner` tells them apart, and a
whole cohort is one transaction. What never lives here: the checks of a reservation (`reservations.py`), what is told to a
reader (`view.py`), files and disks (`file.py`), whether more fits (`costs.py`), the price of events
(`shared/privacy/accounting.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from client.ledger.costs import Budget
from client.ledger.file import LedgerFile
from client.ledger.in_flight import InFlight, ranges
from client.ledger.limits import EVERYONE, Binding, Policy, Request
from client.ledger.reservations import Message, Reservations, Spending
from client.ledger.rows import POLICIES, POLICY, effective, limits_of, marks, policies_of
from client.ledger.view import BINDING, Account, LedgerView
from shared.errors import PrivacyError, TacitError
from shared.privacy.events import Event

__all__ = ["EVERYONE", "Account", "Binding", "Ledger", "Policy", "Request", "Spending"]


class Ledger(LedgerView):
    """The events of one or many owners in one file. Safe between processes and threads, and across forks.

    Args:
        path: The file.
        binding: What the events of this run are about. A new file, and its missing parent folders, are made and bound to it;
            an old file must agree. None opens an existing ledger, to look at it or to set limits.
        timeout_seconds: How long to wait for another process that is writing.

    Raises:
        PrivacyError: If the file cannot be used, is not a ledger, or is about something else. No data may be read then.
    """

    def __init__(self, path: Path, *, binding: Binding | None = None, timeout_seconds: float = 30.0) -> None:
        super().__init__(LedgerFile(path, timeout_seconds=timeout_seconds), binding)
        self._budget = Budget(binding) if binding is not None else None
        self._in_flight = InFlight()
        if binding is not None:
            self._file.create()
            self._bind(binding)
        elif path.exists():
            self._file.open()

    def reserve(
        self,
        owner: str,
        events: Sequence[Event],
        *,
        run: str,
        purpose: str,
        round_number: int,
        request: Request | None = None,
        planned: Sequence[Event] = (),
        min_separation: int = 0,
    ) -> list[int]:
        """`reserve_all` for one client with one account.

        Returns:
            Identifiers for `sent` and `freed`.

        Raises:
            PolicyRefused: If the plan asks for more than the owner allows, or for a round too close to another.
            BudgetExceeded: If the plan does not fit the owner's limit.
            PrivacyError: If the ledger cannot be written, is an older copy, or holds other accounts of the client's users.
        """
        (outcome,) = self.reserve_all(
            [[Spending(owner, events, planned)]],
            run=run,
            purpose=purpose,
            round_number=round_number,
            request=request,
            min_separation=min_separation,
        )
        if isinstance(outcome, TacitError):
            raise outcome
        return outcome

    def reserve_all(
        self,
        clients: Sequence[Sequence[Spending]],
        *,
        run: str,
        purpose: str,
        round_number: int,
        request: Request | None = None,
        min_separation: int = 0,
    ) -> list[list[int] | TacitError]:
        """Records events of many clients, in one transaction, before any data is read; they count as spent from now on.

        Each client is reserved for whole or not at all, and judged as if it were asked alone, after those before it: a
        refusal disturbs nobody else.

        Guarantee:
            When this returns, the events are on the disk, and whatever kills the process later does not take them away;
            what kills it earlier leaves none of them. Together with all that was spent, by any process, and with all that
            the run still plans, they stay within each owner's limits at the time.

        Args:
            clients: What each client's accounts are going to spend. Where a client's users are divided into groups, all
                accounts that it ever had must be groups of the same division. Without events nothing is recorded, but the
                policy is checked. (public)
            run: Name of the run, of at most 100 letters, digits, dots, hyphens and underscores. (public)
            purpose: "train", or what else is released. (public)
            round_number: From 1; 0 for what is released before the first round. (public)
            request: What the plan asks of the device. (public)
            min_separation: Rounds that must lie between two participations in the training of a run. (public)

        Returns:
            For each client identifiers for `sent` and `freed`, or its refusal: PolicyRefused if the plan asks for more than
            the owner allows or for a round too close to another, BudgetExceeded if it does not fit the owner's limit,
            PrivacyError if they have no meaning, or if the ledger holds other accounts of the client's users.

        Raises:
            PolicyRefused: If the run's name or round number is out of bounds. Nothing is recorded then.
            PrivacyError: If the ledger cannot be written, or is an older copy. Nothing is recorded then.
        """
        if self._budget is None:
            raise PrivacyError(
                "Expected a ledger that was opened with a binding, got one without. No data was read. Say what the events "
                "are about."
            )
        message = Message(run, purpose, round_number, request, min_separation)
        with self._file.alone():
            with self._file.transaction("No data was read.") as connection:
                reservations = Reservations(connection, self._budget, message)
                outcomes = reservations.of(clients)
            self._in_flight.add(reservations.first, reservations.stop)
        return outcomes

    def sent(self, identifiers: Sequence[int]) -> None:
        """Marks reserved events as having left the device, for good. Call it before anything leaves.

        Raises:
            PrivacyError: If one was given back before, or never reserved: nothing may leave then.
        """
        with self._file.alone():
            self._mark(identifiers, "sent", "state IN ('reserved', 'sent')")

    def freed(self, identifiers: Sequence[int]) -> None:
        """Gives reserved events back. Only when it is certain that nothing left the device.

        Guarantee:
            What was sent, and what another process reserved (also one that was killed), is never given back.

        Raises:
            PrivacyError: If one was not reserved by this object in this process, or was sent.
        """
        with self._file.alone():
            if not all(self._in_flight.holds(start, stop) for start, stop in ranges(identifiers)):
                raise PrivacyError(
                    "Expected events that this process reserved and did not send, got others. They stay spent; only who "
                    "reserved an event can know that nothing left."
                )
            self._mark(identifiers, "freed", "state = 'reserved'")

    def set_policy(self, policy: Policy | None, owner: str = EVERYONE) -> None:
        """Sets the limits of one owner, or those of everyone who has none of its own. Only the owner of the device does.

        Args:
            policy: In place of the former limits; None takes them away, so that an owner follows everyone's again.
            owner: Whose.
        """
        self.change_policy(lambda _: policy, owner)

    def change_policy(self, change: Callable[[Policy], Policy | None], owner: str = EVERYONE) -> None:
        """Sets limits that follow from those that hold now, in one transaction.

        Guarantee:
            Changes by several processes at once follow one another; none is lost.

        Args:
            change: From the limits that hold for the owner to the new ones; None takes them away.
            owner: Whose.
        """
        self._file.create()
        with self._file.transaction("The limits are what they were.") as connection:
            before = effective(policies_of(connection.execute(POLICIES)), owner, none=Policy())
            policy = change(before)
            connection.execute("DELETE FROM policies WHERE owner = ?", (owner,))
            if policy is not None:
                values = (owner, *limits_of(policy))
                connection.execute(f"INSERT INTO policies (owner, {', '.join(POLICY)}) VALUES ({marks(values)})", values)

    def record_fault(self, owner: str, *, run: str, round_number: int, kind: str) -> None:
        """`record_faults` for one update."""
        self.record_faults([(owner, kind)], run=run, round_number=round_number)

    def record_faults(self, faults: Sequence[tuple[str, str]], *, run: str, round_number: int) -> None:
        """Counts updates that could not be used and were replaced by zero before noise.

        Guarantee:
            The count stays on the device: it is in no message and no export. That it cannot be written is passed over in
            silence, because an error would tell others that this device's update was faulty.

        Args:
            faults: For each update its owner (public), and what was wrong in a word (private).
            run: Name or digest of the run. (public)
            round_number: Of the updates. (public)
        """
        try:
            with self._file.transaction_without_sync("The faults were not counted.") as connection:
                connection.executemany(
                    "INSERT INTO faults (owner, run, round_number, kind) VALUES (?, ?, ?, ?)",
                    [(owner, run, round_number, kind) for owner, kind in faults],
                )
        except PrivacyError:
            return

    def _bind(self, binding: Binding) -> None:
        """Compares with what the file is bound to, and writes down what it does not say yet."""
        with self._file.transaction("No data was read.") as connection:
            row = connection.execute(f"SELECT {', '.join(BINDING)} FROM binding").fetchone()
            known = {name: value for name, value in zip(BINDING, row, strict=True) if value is not None}
            binding.verify_same(replace(binding, **known))
            assignments = ", ".join(f"{name} = ?" for name in BINDING)
            connection.execute(f"UPDATE binding SET {assignments}", tuple(asdict(binding).values()))

    def _mark(self, identifiers: Sequence[int], state: str, condition: str) -> None:
        if not identifiers:
            return
        found = list(ranges(identifiers))
        # Without a sync: when the power fails, events are reserved again, which counts the same or more, and for good.
        consequence = "Nothing was released, and what was reserved counts as spent."
        with self._file.transaction_without_sync(consequence) as connection:
            query = f"UPDATE events SET state = ? WHERE id >= ? AND id < ? AND {condition}"
            changed = connection.executemany(query, [(state, start, stop) for start, stop in found]).rowcount
            if changed != len(identifiers):
                raise PrivacyError(
                    f"Expected reserved events to become '{state}', got one that was never reserved, or was given back "
                    "or sent before. Nothing was released. Reserve the events again."
                )
        for start, stop in found:
            self._in_flight.remove(start, stop)
