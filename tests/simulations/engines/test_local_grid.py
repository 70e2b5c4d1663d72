"""The in-process grid: real apps, contexts that last, exceptions as error replies, interruptions."""

from __future__ import annotations

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from shared.errors import ConfigError
from simulations.engines.local_grid import InProcessGrid
from tests import running


def _counting_app() -> ClientApp:
    app = ClientApp()

    @app.query("popularity")
    def count(message: Message, context: Context) -> Message:
        seen = context.state.get("seen", ConfigRecord({"calls": 0}))
        context.state["seen"] = ConfigRecord({"calls": int(seen["calls"]) + 1})
        fields = {"calls": context.state["seen"]["calls"], "partition": context.node_config["partition-id"]}
        fields |= {"nodes": context.node_config["num-partitions"], "setting": context.run_config["setting"]}
        return Message(RecordDict({"fields": ConfigRecord(fields)}), reply_to=message)

    return app


def _ask(grid: Grid, nodes: list[int]) -> list[Message]:
    messages = [Message(RecordDict(), dst_node_id=node, message_type="query.popularity", group_id="1") for node in nodes]
    return list(grid.send_and_receive(messages))


def test_each_node_keeps_a_context_of_its_own() -> None:
    grid = InProcessGrid(_counting_app(), num_nodes=3, run_config={"setting": 5})
    nodes = list(grid.get_node_ids())
    _ask(grid, nodes)
    replies = _ask(grid, nodes[1:])
    assert [dict(reply.content["fields"]) for reply in replies] == [
        {"calls": 2, "partition": 1, "nodes": 3, "setting": 5},
        {"calls": 2, "partition": 2, "nodes": 3, "setting": 5},
    ]
    assert [reply.metadata.src_node_id for reply in replies] == nodes[1:]


def test_replies_can_be_pulled_once() -> None:
    grid = InProcessGrid(_counting_app(), num_nodes=2, run_config={"setting": 0})
    message = Message(
        RecordDict(), dst_node_id=next(iter(grid.get_node_ids())), message_type="query.popularity", group_id="1"
    )
    (identifier,) = grid.push_messages([message])
    (reply,) = grid.pull_messages([identifier])
    assert reply.metadata.reply_to_message_id == identifier
    assert list(grid.pull_messages([identifier, "unknown"])) == []


def _raising_app(error: BaseException) -> ClientApp:
    app = ClientApp()

    @app.query("popularity")
    def fail(message: Message, context: Context) -> Message:
        raise error

    return app


def test_an_exception_of_ours_becomes_an_error_reply_with_its_message() -> None:
    grid = InProcessGrid(_raising_app(ConfigError("Expected more.")), num_nodes=1, run_config={})
    (reply,) = _ask(grid, list(grid.get_node_ids()))
    assert reply.has_error()
    assert (reply.error.code, reply.error.reason) == (2, "Expected more.")


def test_a_foreign_exception_becomes_an_error_reply_that_quotes_nothing() -> None:
    error = ValueError("person-7 bought thing-3")
    grid = InProcessGrid(_raising_app(error), num_nodes=1, run_config={})
    (reply,) = _ask(grid, list(grid.get_node_ids()))
    assert reply.error.reason == "ValueError"
    assert grid.last_exception is error


def test_an_interruption_from_the_keyboard_passes_through() -> None:
    grid = InProcessGrid(_raising_app(KeyboardInterrupt("stop")), num_nodes=1, run_config={})
    with pytest.raises(KeyboardInterrupt, match="stop"):
        _ask(grid, list(grid.get_node_ids()))


def test_a_server_app_runs_with_its_configuration_on_every_node() -> None:
    server_app = ServerApp()
    found: list[int] = []

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        for reply in _ask(grid, list(grid.get_node_ids())):
            found.append(int(reply.content["fields"]["partition"]))
        found.append(int(context.run_config["setting"]))

    running.run_in_process(server_app, _counting_app(), num_nodes=4, run_config={"setting": 9})
    assert found == [0, 1, 2, 3, 9]
