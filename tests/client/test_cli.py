"""`tacit node budget`: what the owner of a device sees and sets."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from client.cli import app
from client.commands.options import require_consent
from client.ledger.accounts import account_of_user
from client.ledger.ledger import Binding, Ledger, Policy, Request
from shared.errors import BudgetExceeded, ConfigError, PrivacyError, TacitError
from shared.privacy.accounting import epsilon
from shared.privacy.events import Event

ROOT = Path(__file__).parent.parent.parent
BINDING = Binding("movies", "user", "add-or-remove-one", 1e-5)
REQUEST = Request("user", "dp-sgd", "none", 0.1, 1.5, 10, 1e-5)
BY_SERVER = Event(2.0, 0.1, 1, sampled_by="server")


def _run(*arguments: object) -> str:
    """Standard output of a command; what it raises is raised here."""
    result = CliRunner().invoke(app, ["budget", *map(str, arguments)], standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return result.output


def _json(*arguments: object) -> Any:
    return json.loads(_run(*arguments, "--json"))


def _reserve(path: Path, *events: Event, owner: str = "client-0") -> None:
    ledger = Ledger(path, binding=BINDING)
    ledger.reserve(owner, events, run="r", purpose="train", round_number=1, request=REQUEST)
    ledger.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


def test_show_says_what_was_spent_to_those_who_know_the_participation_and_to_others(path: Path) -> None:
    _reserve(path, BY_SERVER, BY_SERVER)
    _reserve(path, Event(5.0), owner="client-1")
    ledger = Ledger(path)
    ledger.record_fault("client-1", run="r", round_number=1, kind="non-finite")
    ledger.set_policy(Policy(epsilon=10.0))
    ledger.set_policy(Policy(epsilon=1.0), "client-1")
    value = _json("show", "--ledger", path)
    known, sampled = (epsilon([replace(event, steps=2)], delta=1e-5) for event in (Event(2.0), BY_SERVER))
    other = epsilon([Event(5.0)], delta=1e-5)
    assert sampled < known / 2
    assert value["binding"] == vars(BINDING)
    assert value["limits"]["epsilon"] == 10.0
    assert value["owners"] == [
        {
            "owner": "client-0",
            "events": 2,
            "epsilon_known_participation": pytest.approx(known),
            "epsilon_as_recorded": pytest.approx(sampled),
            "limit": 10.0,
            "remaining": pytest.approx(10.0 - known),
            "faults": 0,
        },
        {
            "owner": "client-1",
            "events": 1,
            "epsilon_known_participation": pytest.approx(other),
            "epsilon_as_recorded": pytest.approx(other),
            "limit": 1.0,
            "remaining": pytest.approx(1.0 - other, abs=1.0),
            "faults": 1,
        },
    ]
    only = _json("show", "--ledger", path, "--owner", "client-1")
    assert only["owners"] == value["owners"][1:]
    assert only["limits"]["epsilon"] == 1.0


def test_show_prints_a_table_of_the_ten_highest_for_people(path: Path) -> None:
    for number in range(12):
        _reserve(path, Event(20.0, 1.0, 1 + number), owner=f"client-{number}")
    text = _run("show", "--ledger", path)
    assert "ledger.sqlite: data movies, unit user, add-or-remove-one, delta 1e-05" in text
    rows = [line.split()[1] for line in text.splitlines() if "client-" in line]
    assert rows == [f"client-{number}" for number in range(11, 1, -1)]
    assert "The 10 highest of 12 owners; --json lists all." in text
    assert len(_json("show", "--ledger", path)["owners"]) == 12


def test_show_says_so_where_no_bound_is_known(path: Path) -> None:
    """Fixed-size samples have no bound of ours, until everybody knows who took part."""
    _reserve(path, Event(2.0, 0.5, 1, sampling="fixed-size", sampled_by="server", population=100, sample_cap=50))
    (row,) = _json("show", "--ledger", path)["owners"]
    assert row["epsilon_as_recorded"] is None
    assert row["epsilon_known_participation"] == pytest.approx(epsilon([Event(2.0)], delta=1e-5))
    assert " - " in _run("show", "--ledger", path)


def test_show_refuses_an_owner_that_is_not_there_and_does_not_repeat_the_name(path: Path) -> None:
    _reserve(path, BY_SERVER)
    with pytest.raises(ConfigError, match="Expected --owner to name an owner in this ledger, found no event") as caught:
        _run("show", "--ledger", path, "--owner", "somebody")
    assert "somebody" not in str(caught.value)


@pytest.mark.parametrize("command", ["show", "export"])
def test_looking_at_a_ledger_that_is_not_there_is_refused_and_makes_none(path: Path, command: str) -> None:
    with pytest.raises(PrivacyError, match=r"There is no privacy ledger ledger\.sqlite"):
        _run(command, "--ledger", path)
    assert not path.exists()


def test_a_limit_may_be_set_before_the_first_run_and_holds_for_it(path: Path) -> None:
    _run("set-limit", "--ledger", path, "--epsilon", "1")
    assert _json("show", "--ledger", path)["binding"] is None
    assert "no run yet" in _run("show", "--ledger", path)
    with pytest.raises(BudgetExceeded, match="Expected a plan that fits what the owner of this device still allows"):
        _reserve(path, Event(1.0))
    _run("set-limit", "--ledger", path, "--epsilon", "9")
    _reserve(path, Event(1.0))


def test_set_limit_changes_what_is_named_and_leaves_the_rest(path: Path) -> None:
    names = {
        "--epsilon": ("epsilon", 8.0),
        "--unit": ("unit", "user"),
        "--max-clip-norm": ("l2_clip_norm_at_most", 0.5),
        "--min-noise-multiplier": ("noise_multiplier_at_least", 1.25),
        "--max-rounds": ("rounds_at_most", 100),
        "--max-delta": ("delta_at_most", 1e-5),
        "--adversary": ("adversary", "server"),
        "--min-corrupt-fraction": ("corrupt_fraction_at_least", 0.1),
        "--max-dropout-fraction": ("dropout_fraction_at_most", 0.2),
    }
    expected: dict[str, Any] = dict.fromkeys((*(name for name, _ in names.values()), "mechanisms"), None)
    for option, (name, value) in names.items():
        expected[name] = value
        assert _json("set-limit", "--ledger", path, option, value)["limits"] == expected
    expected["mechanisms"] = ["distributed", "dp-sgd"]
    arguments = ("set-limit", "--ledger", path, "--mechanism", "dp-sgd, distributed")
    assert _json(*arguments)["limits"] == expected
    assert "mechanisms=distributed+dp-sgd, adversary=server," in _run(*arguments)
    text = _run("set-limit", "--ledger", path, "--epsilon", "4")
    assert text.startswith(
        "Limits for everyone: epsilon=4, unit=user, l2_clip_norm_at_most=0.5, noise_multiplier_at_least=1.25,"
    )
    expected |= {"epsilon": 4.0, "mechanisms": ("distributed", "dp-sgd")}
    assert vars(Ledger(path).policy("client-0")) == expected


def test_limits_that_are_set_at_once_are_all_there_afterwards(path: Path) -> None:
    """Each command reads the limits that hold and adds its own; three processes, each with an option of its own."""
    names = {"--epsilon": "epsilon", "--max-rounds": "rounds_at_most", "--max-clip-norm": "l2_clip_norm_at_most"}
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from client.cli import app\n"
        "import client.ledger.ledger\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "for value in range(1, 41):\n"
        "    arguments = ['budget', 'set-limit', '--ledger', sys.argv[1], sys.argv[2], str(value)]\n"
        "    done = CliRunner().invoke(app, arguments, catch_exceptions=False)\n"
        "    assert done.exit_code == 0, done.output\n"
        "    print(done.output.strip())\n"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, path, option], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        for option in names
    ]
    for process in running:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in running:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process, name in zip(running, names.values(), strict=True):
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0
        # What a process has set is still there when it looks the next time.
        found = [
            dict(part.split("=") for part in line.removesuffix(".").split(": ")[1].split(", ")) for line in said.splitlines()
        ]
        assert [float(limits[name]) for limits in found] == list(range(1, 41))
    assert Ledger(path).policies() == {"*": Policy(epsilon=40.0, rounds_at_most=40, l2_clip_norm_at_most=40.0)}


def test_show_warns_where_an_older_copy_lies_in_the_place_of_the_ledger(path: Path) -> None:
    _reserve(path, BY_SERVER)
    copy = path.read_bytes()
    assert _json("show", "--ledger", path)["warning"] is None
    _reserve(path, BY_SERVER)
    path.write_bytes(copy)
    assert _json("show", "--ledger", path)["warning"].startswith("The privacy ledger ledger.sqlite is an older copy")
    assert "is an older copy" in _run("show", "--ledger", path)


def test_limits_of_one_owner_start_from_those_of_everyone_until_they_are_cleared(path: Path) -> None:
    _run("set-limit", "--ledger", path, "--epsilon", "8", "--max-rounds", "10")
    _run("set-limit", "--ledger", path, "--epsilon", "2", "--owner", "client-1")
    ledger = Ledger(path)
    assert ledger.policy("client-1") == Policy(epsilon=2.0, rounds_at_most=10)
    assert ledger.policy("client-0") == Policy(epsilon=8.0, rounds_at_most=10)
    assert _json("set-limit", "--ledger", path, "--clear", "--owner", "client-1")["limits"]["epsilon"] == 8.0
    assert ledger.policies() == {"*": Policy(epsilon=8.0, rounds_at_most=10)}
    assert _run("set-limit", "--ledger", path, "--clear") == "Limits for everyone: none.\n"
    assert ledger.policies() == {}


def test_clearing_and_setting_in_one_command_keeps_only_what_is_set(path: Path) -> None:
    _run("set-limit", "--ledger", path, "--epsilon", "8", "--max-rounds", "10")
    _run("set-limit", "--ledger", path, "--clear", "--max-rounds", "20")
    assert Ledger(path).policies() == {"*": Policy(rounds_at_most=20)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), r"Expected a limit, got none\. Name one, e\.g\. --epsilon 8"),
        (("--epsilon", "0"), r"Expected epsilon > 0 and finite, got epsilon=0\.0"),
        (("--epsilon", "nan"), r"Expected epsilon > 0 and finite, got epsilon=nan"),
        (("--unit", "person"), r"Expected unit to be one of user, window, got unit=person"),
        (("--max-clip-norm", "-1"), r"Expected l2_clip_norm_at_most > 0 and finite, got l2_clip_norm_at_most=-1\.0"),
        (("--min-noise-multiplier", "inf"), r"Expected noise_multiplier_at_least > 0 and finite, got .*=inf"),
        (("--max-rounds", "0"), r"Expected rounds_at_most >= 1, got rounds_at_most=0"),
        (("--max-delta", "1"), r"Expected 0 < delta_at_most < 1, got delta_at_most=1\.0"),
        (("--mechanism", "dp-sgd,laplace"), r"Expected mechanisms among dp-sgd, .*, got mechanisms=dp-sgd,laplace"),
        (("--mechanism", ""), r"Expected mechanisms among dp-sgd, .*, got mechanisms=\."),
        (("--adversary", "mallory"), r"Expected adversary to be one of outsider, .*, got adversary=mallory"),
    ],
)
def test_a_limit_out_of_range_is_refused_and_nothing_is_written(
    path: Path, arguments: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        _run("set-limit", "--ledger", path, *arguments)
    assert list(path.parent.iterdir()) == []


def test_export_writes_the_same_to_a_file_and_to_standard_output(path: Path, tmp_path: Path) -> None:
    _reserve(path, BY_SERVER)
    _reserve(path, Event(3.0), owner="client-1")
    printed = json.loads(_run("export", "--ledger", path))
    assert printed == Ledger(path).export()
    out = tmp_path / "new" / "export.json"
    assert _run("export", "--ledger", path, "--out", out) == f"Wrote 2 events to {out}\n"
    assert json.loads(out.read_text()) == printed
    assert [found.name for found in out.parent.iterdir()] == ["export.json"]  # no temporary file is left
    assert _json("export", "--ledger", path, "--out", out, "--owner", "client-1") == {"export": str(out), "events": 1}
    assert {entry["owner"] for entry in json.loads(out.read_text())["events"]} == {"client-1"}


def test_a_corrupt_ledger_is_one_line_and_stays_as_it_was(path: Path) -> None:
    path.write_bytes(b"no database" * 100)
    for arguments in (("show",), ("set-limit", "--epsilon", "3"), ("export",)):
        with pytest.raises(
            TacitError, match=r"^The privacy ledger ledger\.sqlite cannot be used \(file is not a database\)\."
        ) as caught:
            _run(*arguments, "--ledger", path)
        assert "\n" not in str(caught.value)
    assert path.read_bytes() == b"no database" * 100


def test_the_command_line_loads_nothing_heavy_before_a_command_runs() -> None:
    code = "import sys, client.cli; print(sorted({'torch', 'numpy', 'scipy', 'flwr', 'sqlite3'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout == "[]\n"


def test_a_user_who_is_a_client_is_named_by_the_id(path: Path) -> None:
    _reserve(path, Event(4.0), owner=account_of_user("person-7"))
    _reserve(path, Event(5.0), owner=account_of_user("person-8"))
    (row,) = _json("show", "--ledger", path, "--user", "person-7")["owners"]
    assert row["owner"] == account_of_user("person-7")
    assert _json("set-limit", "--ledger", path, "--user", "person-7", "--epsilon", "2")["owner"] == row["owner"]
    assert Ledger(path).policy(row["owner"]).epsilon == 2.0
    assert Ledger(path).policy(account_of_user("person-8")).epsilon is None
    (event,) = _json("export", "--ledger", path, "--user", "person-7")["events"]
    assert event["owner"] == row["owner"]


@pytest.mark.parametrize(
    ("there", "arguments"),
    [
        (account_of_user("a"), ["--owner", "client-3"]),
        ("client-0", ["--owner", account_of_user("a")]),
        ("client-0", ["--owner", "value-00000001-0123456789abcdef"]),
        ("value-00000002-0123456789abcdef", ["--owner", "value-00000001-0123456789abcdef"]),
        ("value-00000002-0123456789abcdef", ["--owner", "client-0/group-0-of-2"]),
    ],
)
def test_a_limit_for_an_account_of_another_kind_is_refused_and_one_that_is_there_can_be_taken_away(
    path: Path, there: str, arguments: list[str]
) -> None:
    _reserve(path, Event(4.0), owner=there)
    for more in ([], ["--clear"]):
        with pytest.raises(ConfigError, match="Expected an owner of the same kind as the accounts in this ledger") as caught:
            _run("set-limit", "--ledger", path, "--epsilon", "2", *arguments, *more)
        assert arguments[1] not in str(caught.value)
    assert Ledger(path).policies() == {}
    Ledger(path).set_policy(Policy(epsilon=2.0), arguments[1])
    with pytest.raises(PrivacyError, match="found limits of an account of another kind"):
        _reserve(path, Event(4.0), owner=there)
    _run("set-limit", "--ledger", path, "--clear", *arguments)
    _run("set-limit", "--ledger", path, "--epsilon", "20", "--owner", there)
    _run("set-limit", "--ledger", path, "--epsilon", "20")
    _reserve(path, Event(4.0), owner=there)


def test_a_limit_that_was_set_for_a_user_guards_no_silo_and_the_run_says_so(path: Path) -> None:
    _run("set-limit", "--ledger", path, "--user", "person-7", "--epsilon", "2")
    with pytest.raises(PrivacyError, match="Expected limits of everyone or of accounts of the same kind") as caught:
        _reserve(path, Event(4.0), owner="client-0")
    assert "user-" not in str(caught.value)
    assert account_of_user("person-7") in json.loads(_run("export", "--ledger", path))["policies"]


@pytest.mark.parametrize(
    ("arguments", "owner", "message"),
    [
        (["--user", "a", "--owner", "b"], "b", "Expected --owner or --user, got both. Name the account once."),
        (["--user", "a"], "client-0", "Expected a ledger of users who are clients with --user, found one of silos."),
        (
            ["--user", "a"],
            "value-00000001-0123456789abcdef",
            "Expected a ledger of users who are clients with --user, found",
        ),
        (["--user", "a"], account_of_user("b"), "Expected --user to name an owner in this ledger, found no event"),
    ],
)
def test_a_user_without_an_account_is_refused(path: Path, arguments: list[str], owner: str, message: str) -> None:
    _reserve(path, Event(4.0), owner=owner)
    with pytest.raises(ConfigError, match=re.escape(message)):
        _run("show", "--ledger", path, *arguments)


@pytest.mark.parametrize(
    ("answer", "error", "says"),
    [
        ("n\n", TacitError, r"^Nothing was changed: the answer was no\.$"),
        ("\n", TacitError, r"^Nothing was changed: the answer was no\.$"),
        ("", ConfigError, r"^Expected an answer, found no terminal to ask at\. Nothing was changed; use --yes\.$"),
    ],
)
def test_an_owner_who_does_not_say_yes_has_changed_nothing(answer: str, error: type[TacitError], says: str) -> None:
    asking = typer.Typer()
    asking.command()(lambda: require_consent("Approve this run?"))
    found = CliRunner().invoke(asking, input=answer)
    assert type(found.exception) is error
    assert re.match(says, str(found.exception))
    assert CliRunner().invoke(asking, input="y\n").exception is None
