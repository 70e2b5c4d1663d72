"""TensorBoard event files of a run record.

Lives here: which number of the record gets which tag. Never here: a metric computed from data. The run and
each baseline become one TensorBoard run (a subfolder) with the same tags, so that a baseline is a level
line under the learning curve without any setting. Times are those of the record and the file name has no
host name, so that writing again gives the same file and the folder may be sent to somebody.
"""

import re
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from server.reporting import comparison, sentences
from server.reporting.comparison import ModelRow
from server.reporting.reading import entries, section
from server.reporting.records import RunRecord
from shared.wording import finite


def write_events(run: RunRecord, folder: Path) -> Path:
    """Writes the record's scalars for `tensorboard --logdir FOLDER`.

    Tags: `loss/training`, `validation/<metric>` and `privacy/epsilon_spent` by round in the run `this-run`;
    `validation/<metric>` at the first and last round in a run for each baseline; `test/<metric>` at the last
    round in all of them. `@` is written `_at_`, because TensorBoard allows no `@` in a tag.

    Args:
        run: The run record; null is left out. (private)
        folder: Where the event files go; made if absent. Files of an earlier call are replaced.

    Returns:
        The folder.
    """
    record = run.as_json()
    rows = [row for row in entries(record, "rounds") if finite(row.get("round_number")) is not None]
    steps = [int(row["round_number"]) for row in rows] or [0]
    start = _start(record)
    moments, now = [], start
    for row in rows:
        now += finite(row.get("seconds")) or 0.0
        moments.append(now)

    scalars: list[tuple[str, float | None, int, float]] = []
    for step, moment, row in zip(steps, moments, rows, strict=False):
        scalars.append(("loss/training", finite(row.get("training_loss")), step, moment))
        scalars.append(("privacy/epsilon_spent", finite(row.get("epsilon_spent")), step, moment))
        for name, value in section(row, "validation").items():
            scalars.append((f"validation/{_tag(name)}", finite(value), step, moment))
    own, *baselines = comparison.model_rows(record)
    scalars += _final(own, "test", steps[-1], now)
    _write(folder / "this-run", scalars, start, f"{run.stamp}\n\n{sentences.claim_sentence(run.privacy)}")
    for row_of_model in baselines:
        level = _final(row_of_model, "validation", steps[0], moments[0] if moments else start)
        level += _final(row_of_model, "validation", steps[-1], now) if len(steps) > 1 else []
        level += _final(row_of_model, "test", steps[-1], now)
        _write(folder / f"baseline-{_file_name(row_of_model.key or row_of_model.label)}", level, start, run.stamp)
    return folder


def _final(row: ModelRow, split: str, step: int, moment: float) -> list[tuple[str, float | None, int, float]]:
    return [(f"{split}/{_tag(name)}", row.mean(split, name), step, moment) for name in section(row.metrics, split)]


def _write(folder: Path, scalars: list[tuple[str, float | None, int, float]], start: float, note: str) -> None:
    """Writes one event file beside its place and moves it there, so that readers never see half of one."""
    from tensorboardX import SummaryWriter  # imported here: only a finished run needs it

    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".writing-") as scratch:
        writer = SummaryWriter(logdir=scratch, write_to_disk=True)
        writer.add_text("about", note, 0, walltime=start)
        for tag, value, step, moment in scalars:
            if value is not None:
                writer.add_scalar(tag, value, step, walltime=moment)
        writer.close()
        (written,) = Path(scratch).glob("events.out.tfevents.*")
        written.replace(folder / f"events.out.tfevents.{int(start)}.tacit")


def _start(record: Mapping[str, Any]) -> float:
    """Seconds since 1970 of the record's creation; 0 where it is absent or no date."""
    try:
        moment = datetime.fromisoformat(str(record.get("created")))
    except ValueError:
        return 0.0
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _tag(name: str) -> str:
    return re.sub(r"[^\w.-]", "_", name.replace("@", "_at_"))


def _file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)[:80]
