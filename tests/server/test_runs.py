"""What an operator begins and sees: published facts, a run's beginning, where it stands and why it waits."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.event_log import EventLog
from server.home import ServerHome
from server.run_state import write_state
from server.runs import begin, in_words, overview, publish_facts, resumed, stop
from server.terms import UNCHANGED
from shared import running
from shared.errors import ConfigError, DataError, TacitError

NOW = 1_800_000_000


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("user,item,timestamp\nu1,i1,1\n", "Expected a table of items in items.csv, found column user"),
        ("user,item,text\nu1,i1,a film\n", "Expected a table of items in items.csv, found column user"),
        ("item,price\ni1,3\n", "Expected columns item and text in items.csv, found none for the text"),
    ],
)
def test_what_is_no_table_of_items_is_not_published(text: str, says: str, server_home: ServerHome, tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text(text)
    with pytest.raises(DataError, match=says):
        publish_facts(server_home, tmp_path / "items.csv", users=3, nodes=2)
    assert not server_home.federation.exists()


def _published(home: ServerHome, folder: Path, backbone: str) -> Path:
    (folder / "items.csv").write_text("item,text\n" + "\n".join(f"i{n},w{n} w{n + 1}" for n in range(12)))
    publish_facts(home, folder / "items.csv", users=30, nodes=3)
    toml = folder / "federation.toml"
    toml.write_text(
        f'[proposal]\nname = "autumn"\npurpose = "Films"\n[data]\npublic_catalog = true\n[model]\nbackbone = "{backbone}"\n'
    )
    return toml


def test_without_a_running_server_no_run_begins_ends_or_goes_on(
    server_home: ServerHome, tmp_path: Path, tiny_bert: str
) -> None:
    toml = _published(server_home, tmp_path, tiny_bert)
    with pytest.raises(TacitError, match=r"^Expected the server to run, found it ended .* `tacit server start`\.$"):
        begin(server_home, toml, now=NOW)
    assert not server_home.runs.exists()
    write_state(server_home.runs / "autumn", "running")
    with pytest.raises(TacitError, match=r"^Expected the server to run"):
        stop(server_home, "autumn")
    write_state(server_home.runs / "autumn", "failed")
    with pytest.raises(TacitError, match=r"^Expected the server to run"):
        resumed(server_home, "autumn", UNCHANGED)


def test_a_name_is_given_to_one_run(server_home: ServerHome, tmp_path: Path, tiny_bert: str) -> None:
    toml = _published(server_home, tmp_path, tiny_bert)
    write_state(server_home.runs / "autumn", "failed")
    with running.held(server_home.running, "server"):
        running.write_ready(server_home.running)
        with pytest.raises(ConfigError, match=r"^Expected a name that no run of this server has, got name=autumn again\."):
            begin(server_home, toml, now=NOW)
    assert [path.name for path in server_home.runs.iterdir()] == ["autumn"]


def test_a_run_that_waits_says_for_how_many_and_why_until_it_asks(server_home: ServerHome) -> None:
    run_dir = server_home.runs / "autumn"
    write_state(run_dir, "running")
    log = EventLog(run_dir / "events.jsonl")
    log.append("waiting", nodes_ready=0, nodes_needed=2, reasons=["shop-1 refused (not-approved): ask the owner"])
    (found,) = overview(server_home, now=NOW)["runs"]
    assert found["progress"] == "waiting for nodes, 0 of 2 are ready"
    assert found["waits_because"] == ["shop-1 refused (not-approved): ask the owner"]
    log.asking("popularity", 0, None)
    log.append("progress", what="popularity", round_number=0, clients_asked=3, clients_answered=1)
    (found,) = overview(server_home, now=NOW)["runs"]
    assert (found["progress"], found["answered"], found["waits_because"]) == ("popularity", "1", [])
    log.append("progress", what="popularity", round_number=0, clients_asked=3, clients_answered=2, stage="share")
    assert overview(server_home, now=NOW)["runs"][0]["answered"] == "2 in stage share"
    log.append("received", purpose="popularity", round_number=0, replies=[{"head": "a"}, {"head": "b"}, {"head": "c"}])
    (found,) = overview(server_home, now=NOW)["runs"]
    assert (found["progress"], found["answered"]) == ("popularity", "3")


def test_an_event_is_one_line_with_the_number_of_what_is_long() -> None:
    replies = [{"head": "a" * 64}, {"head": "b" * 64}]
    assert in_words({"event": "received", "purpose": "train", "replies": replies, "of": None}) == (
        "received purpose=train replies=2"
    )


def test_a_run_that_is_about_to_begin_is_not_begun_again(server_home: ServerHome, monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"status": "pending", "status-details": ""}
    monkeypatch.setattr("server.runs.flower", lambda *_: {"runs": [said]})
    write_state(server_home.runs / "autumn", "proposed", flower_run="7")
    with running.held(server_home.running, "server"):
        running.write_ready(server_home.running)
        with pytest.raises(ConfigError, match=r"^Expected a run that was interrupted, got state=proposed\."):
            resumed(server_home, "autumn", UNCHANGED)
        said |= {"status": "finished:failed", "status-details": "no room"}
        with pytest.raises(ConfigError, match=r"run-file\.json"):  # it has ended: what it lacks here is its run file
            resumed(server_home, "autumn", UNCHANGED)
    assert overview(server_home, now=NOW)["runs"][0]["state"] == "failed"


def test_a_run_whose_state_is_damaged_is_shown_as_that(server_home: ServerHome) -> None:
    write_state(server_home.runs / "autumn", "finished")
    (server_home.runs / "autumn" / "state.json").write_text("{")
    (server_home.runs / "begins").mkdir()  # a folder that gets its state in a moment
    (found,) = overview(server_home, now=NOW)["runs"]
    assert (found["run"], found["state"], found["reason"]) == ("autumn", "failed", "Its state.json is damaged.")
