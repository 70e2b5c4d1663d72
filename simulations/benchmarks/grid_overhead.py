"""What a message through the in-process grid costs, against Flower's serialization of the same message.

The client does nothing but answer with an update of the same size, so all that is measured is the grid, the
records and Flower's app around the client. Serialization there and back is the least that any engine with
several processes pays for a message.
"""

from __future__ import annotations

import math

import numpy as np
from flwr.app import Context, Message, MessageType
from flwr.clientapp import ClientApp
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage

from shared.config import RunConfig
from shared.privacy.calibration import plan_of
from shared.protocol.messages import ContributionReply, TrainInstruction
from simulations.benchmarks.timing import compare, options, show
from simulations.engines.local_grid import InProcessGrid

_PLAN = plan_of(
    RunConfig.from_mapping(
        {
            "privacy.epsilon": math.inf,
            "federation.rounds": 1,
            "training.local_steps": 1,
            "training.sampling_rate": 1.0,
            "run.reproducible": True,
        }
    ),
    num_users=1,
    num_clients=1,
)


def main() -> None:
    """Measures and prints."""
    parser = options(__doc__, repeats=9)
    parser.add_argument("--floats", type=int, default=100_000, help="size of the update (default 100000)")
    parser.add_argument("--nodes", type=int, default=200, help="messages in one call (default 200)")
    chosen = parser.parse_args()
    update = np.random.default_rng(0).normal(size=chosen.floats).astype(np.float32)
    grid = InProcessGrid(_idle_client(update), num_nodes=chosen.nodes, run_config={})
    content = TrainInstruction("benchmark", 1, _PLAN, math.inf, update).to_record()

    def messages() -> list[Message]:
        return [
            Message(content=content, dst_node_id=node, message_type=MessageType.TRAIN, group_id="1")
            for node in grid.get_node_ids()
        ]

    def through_the_grid() -> None:
        for reply in grid.send_and_receive(messages()):
            ContributionReply.from_message(reply, in_ring=False)

    def serialized() -> None:
        reply_content = ContributionReply(update).to_record()
        for message in messages():
            received = _round_trip(message)
            TrainInstruction.from_message(received)
            ContributionReply.from_message(_round_trip(Message(content=reply_content, reply_to=received)), in_ring=False)

    comparison = compare(through_the_grid, serialized, repeats=chosen.repeats, per=chosen.nodes / 1000, unit="ms a message")
    show(
        "grid_overhead",
        comparison,
        a="in-process grid",
        b="serialization",
        target=None,
        as_json=chosen.json,
        floats=chosen.floats,
        messages=chosen.nodes,
    )


def _idle_client(update: np.ndarray) -> ClientApp:
    app = ClientApp()

    @app.train()
    def answer(message: Message, context: Context) -> Message:
        TrainInstruction.from_message(message)
        return Message(ContributionReply(update).to_record(), reply_to=message)

    return app


def _round_trip(message: Message) -> Message:
    return message_from_proto(ProtoMessage.FromString(message_to_proto(message).SerializeToString()))


if __name__ == "__main__":
    main()
