"""The limit on epsilon: the whole plan has to fit, and what was spent is told to the owner alone."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from client.ledger.ledger import Ledger, Policy, Spending
from shared.errors import BudgetExceeded
from shared.privacy import accounting
from shared.privacy.events import Event
from tests.ledgers import BINDING, EVENT, OTHER, REQUEST, gaussian_epsilon, python, reserve, reserve_all, start

REFUSED = "Expected a plan that fits what the owner of this device still allows, got one that asks for more"


def test_a_refusal_for_the_budget_is_the_same_whatever_other_runs_spent(ledger: Ledger) -> None:
    """It travels to the server. The owner sees the numbers in the ledger."""
    messages = set()
    for owner, spent in {"a": [], "b": [OTHER], "c": [OTHER, EVENT, Event(7.0, 1.0, 3)]}.items():
        if spent:
            reserve(ledger, *spent, owner=owner, run="before")
        ledger.set_policy(Policy(epsilon=gaussian_epsilon([OTHER] * (len(spent) + 1), 1e-5)), owner)
        with pytest.raises(BudgetExceeded, match=REFUSED) as caught:
            reserve(ledger, *[OTHER] * 30, owner=owner)
        messages.add(str(caught.value))
        assert ledger.spent(owner) == spent
    (message,) = messages
    assert not re.search(r"\d", message)
    assert message.endswith("and raise the limit with `tacit node budget set-limit --epsilon`.")


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("planned", [False, True])
def test_a_limit_is_not_exceeded_by_a_hundredth(ledger: Ledger, planned: bool, together: bool) -> None:
    """Neither by events nor by a plan, neither for one client nor for many."""
    before, plan = [Event(5.0)], [Event(9.0, 1.0, 12), Event(12.0, 0.3, 7)]
    epsilon = accounting.epsilon([*before, *plan], delta=1e-5)
    events = {"events": [Event(9.0)], "planned": plan} if planned else {"events": plan}
    for owner, factor in {"a": 0.99, "b": 0.999, "c": 1.0, "d": 1.01}.items():
        reserve(ledger, *before, owner=owner, run="before")
        ledger.set_policy(Policy(epsilon=factor * epsilon), owner)
        if together:
            (outcome,) = reserve_all(ledger, [Spending(owner, **events)])
        else:
            try:
                outcome = ledger.reserve(owner, **events, run="r", purpose="train", round_number=1, request=REQUEST)
            except BudgetExceeded as error:
                outcome = error
        assert isinstance(outcome, BudgetExceeded) is (factor < 1)


def test_the_budget_counts_other_runs_other_purposes_and_other_processes(ledger: Ledger, path: Path) -> None:
    ledger.set_policy(Policy(epsilon=gaussian_epsilon([OTHER] * 3, 1e-5) + 0.05))
    reserve(ledger, OTHER, run="first")
    reserve(Ledger(path, binding=BINDING), OTHER, run="second", purpose="popularity")
    python("reserve(Ledger(PATH, binding=BINDING), event=Event(3.0))", path)
    for run in ("first", "third"):
        with pytest.raises(BudgetExceeded, match=REFUSED):
            reserve(ledger, OTHER, run=run)
    reserve(ledger, OTHER, owner="b")


def test_the_budget_counts_as_if_everybody_knew_when_the_device_took_part(ledger: Ledger) -> None:
    """Sampling by the server is worth nothing to the device's own limit; sampling by the device is."""
    limit = 2.5
    by_server = Event(1.5, 0.01, 1, sampled_by="server")
    assert accounting.epsilon([by_server], delta=1e-5) < limit < gaussian_epsilon([Event(1.5)], 1e-5)
    ledger.set_policy(Policy(epsilon=limit))
    with pytest.raises(BudgetExceeded, match=REFUSED):
        reserve(ledger, by_server)
    reserve(ledger, replace(by_server, sampled_by="device"))


def test_what_was_given_back_may_be_spent_again(ledger: Ledger) -> None:
    ledger.set_policy(Policy(epsilon=gaussian_epsilon([OTHER], 1e-5) + 0.05))
    for _ in range(3):
        identifiers = reserve(ledger, OTHER)
        ledger.freed(identifiers)
    ledger.sent(reserve(ledger, OTHER))
    with pytest.raises(BudgetExceeded, match=REFUSED):
        reserve(ledger, OTHER)


def test_a_lowered_limit_holds_at_once_for_what_was_found_to_fit(ledger: Ledger, path: Path) -> None:
    plan = [replace(OTHER, steps=10)]
    ledger.set_policy(Policy(epsilon=gaussian_epsilon(plan, 1e-5) + 0.1))
    reserve(ledger, OTHER, planned=plan)
    Ledger(path).set_policy(Policy(epsilon=gaussian_epsilon([OTHER], 1e-5) + 0.05))
    with pytest.raises(BudgetExceeded, match=REFUSED):
        reserve(ledger, OTHER, planned=plan)


def _number_of_epsilons(call: Any) -> int:
    """How often the accountant is asked while something is called; looks on, changes nothing."""
    count = 0

    def look(frame: Any, what: str, _: Any) -> None:
        nonlocal count
        count += what == "call" and frame.f_code is accounting.epsilon.__code__

    sys.setprofile(look)
    try:
        call()
    finally:
        sys.setprofile(None)
    return count


def test_a_run_that_fits_as_a_whole_asks_the_accountant_once(ledger: Ledger, path: Path) -> None:
    popularity, plan = Event(10.0), [Event(10.0), replace(OTHER, steps=6)]
    ledger.set_policy(Policy(epsilon=20.0))
    reserve(ledger, OTHER, run="before", owner="a")
    first = _number_of_epsilons(lambda: reserve(ledger, popularity, purpose="popularity", round_number=0, planned=plan))
    rest = [
        _number_of_epsilons(lambda number=number: reserve(ledger, OTHER, round_number=number, planned=plan))
        for number in range(1, 7)
    ]
    assert (first, rest) == (1, [0] * 6)
    # What grows is asked about with some room: forty rounds more than planned, far from the limit, take few questions.
    beyond = [
        _number_of_epsilons(lambda number=number: reserve(ledger, OTHER, round_number=number, planned=plan, owner="b"))
        for number in range(1, 47)
    ]
    assert sum(beyond) <= 12
    reserve(ledger, OTHER, round_number=7, planned=plan)
    # A process that takes over counts what the run spent already as part of the plan, not on top of it.
    tight = Ledger(path, binding=BINDING)
    tight.set_policy(Policy(epsilon=gaussian_epsilon([popularity, replace(OTHER, steps=9)], 1e-5) + 0.1))
    assert _number_of_epsilons(lambda: reserve(tight, OTHER, round_number=8, planned=plan)) == 2


def test_a_plan_that_does_not_fit_is_refused_whole_and_spends_nothing(ledger: Ledger) -> None:
    """Its first release would fit, and so would many more."""
    popularity, plan = Event(10.0), [Event(10.0), replace(OTHER, steps=20)]
    ledger.set_policy(Policy(epsilon=accounting.epsilon(plan, delta=1e-5) * 0.98))
    with pytest.raises(BudgetExceeded, match=REFUSED):
        reserve(ledger, popularity, purpose="popularity", round_number=0, planned=plan)
    with pytest.raises(BudgetExceeded, match=REFUSED):
        reserve(ledger, OTHER, planned=plan)
    assert ledger.spent("a") == []
    assert ledger.owners() == []
    reserve(ledger, popularity, purpose="popularity", round_number=0, planned=[*plan[:1], replace(OTHER, steps=18)])


def test_a_plan_has_to_fit_beside_what_other_runs_spent(ledger: Ledger) -> None:
    plan = [replace(OTHER, steps=5)]
    ledger.set_policy(Policy(epsilon=gaussian_epsilon([replace(OTHER, steps=9)], 1e-5) + 0.05))
    for _ in range(5):
        reserve(ledger, OTHER, run="first", planned=plan)
    with pytest.raises(BudgetExceeded, match=REFUSED):
        reserve(ledger, OTHER, run="second", planned=plan)
    reserve(ledger, OTHER, run="second", planned=[replace(OTHER, steps=4)])


def test_a_plan_that_is_too_small_lets_no_more_through(ledger: Ledger) -> None:
    ledger.set_policy(Policy(epsilon=gaussian_epsilon([OTHER] * 2, 1e-5) + 0.05))
    reserve(ledger, OTHER, planned=[OTHER])
    reserve(ledger, OTHER, planned=[OTHER])
    for planned in ([], [OTHER]):
        with pytest.raises(BudgetExceeded, match=REFUSED):
            reserve(ledger, OTHER, planned=planned)


def test_processes_that_reserve_at_once_never_exceed_the_limit_together(ledger: Ledger, path: Path) -> None:
    """The limit is between 7 and 8 events; four processes each want as many as they can get."""
    event = Event(8.0)
    limit = (gaussian_epsilon([event] * 7, 1e-5) + gaussian_epsilon([event] * 8, 1e-5)) / 2
    ledger.set_policy(Policy(epsilon=limit))
    code = (
        "from shared.errors import BudgetExceeded\n"
        "ledger = Ledger(PATH, binding=BINDING)\n"
        "import dp_accounting.pld\n"  # takes a second, and would serialize the processes
        "say('ready'); sys.stdin.readline()\n"
        "try:\n"
        "    while True: reserve(ledger, event=Event(8.0)); say('reserved')\n"
        "except BudgetExceeded as error: say('refused', error)\n"
    )
    running = [start(code, path) for _ in range(4)]
    for process in running:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in running:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=300) for process in running]
    assert [error for _, error in said] == [""] * 4
    assert sum(out.count("reserved\n") for out, _ in said) == 7
    assert all("refused Expected a plan that fits" in out for out, _ in said)
    assert ledger.spent("a") == [event] * 7
