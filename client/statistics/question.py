"""From a server's instruction to the question that the statistics answer."""

from __future__ import annotations

from collections.abc import Sequence

from client.batch import ClientBatch
from client.statistics.blending import Blending
from client.statistics.metrics import Metrics
from client.statistics.pairs import Pairs
from client.statistics.popularity import Popularity
from client.statistics.selection import Selection
from client.statistics.statistic import Asked, Statistic
from client.statistics.transitions import Transitions
from shared.data.splitting import HISTORIES_SCHEMA
from shared.errors import ProtocolViolation
from shared.privacy.releases import kind_of, statistic_of
from shared.privacy.shapes import StatisticShapes
from shared.protocol.messages import ReleaseInstruction

STATISTICS: tuple[Statistic, ...] = (
    Popularity(),
    Pairs(),
    Transitions(),
    Blending(),
    Selection(),
    Metrics(),
)


def question_of(task: ReleaseInstruction, batch: ClientBatch) -> Asked:
    """Reads the state that a question is about, if it is about one.

    Raises:
        CheckpointError: If the state is not one of this model.
        ProtocolViolation: If the head is not one of this catalog and size.
    """
    recommender = batch.recommender()
    if len(task.state):
        recommender.load_state(recommender.read_state(task.state))
    shapes = StatisticShapes.of(batch.config, task.plan, recommender)
    if task.head and (len(task.head) != shapes.head or task.head[-1] >= recommender.num_items):
        raise ProtocolViolation(
            f"Expected {shapes.head} items of the catalog as the head of the pairs, got others. Use the same "
            "configuration on both ends."
        )
    return Asked(task, recommender, batch.config, shapes)


def statistic_for(task: ReleaseInstruction) -> Statistic:
    """What computes the vectors of an instruction."""
    return next(one for one in STATISTICS if one.name == statistic_of(task.purpose))


def columns_for(task: ReleaseInstruction) -> Sequence[str]:
    """What is read of the users' histories: held-out interactions where the release is about these alone."""
    return tuple(HISTORIES_SCHEMA) if kind_of(task.purpose).reads_held_out else ("user", "train")
