"""The terminal side of a run while it trains: a live table on a terminal, one plain line a round on a pipe.

Lives here: what is shown of the server's events. Never here: the run itself, or files other than the event file that
`follow_events` reads. The display goes to stderr, so that `--json` has stdout for itself; a log is read with grep.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from types import MappingProxyType, TracebackType
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from server.reporting import comparison
from server.reporting.reading import section
from server.reporting.released import asked_sentence, selection_sentence
from server.reporting.secure_sums import sum_sentence
from shared import wording
from shared.protocol.secure_sums import STAGES
from shared.wording import finite
from simulations.terminal import ACCENT, plain

_VISIBLE_ROUNDS = 15


@dataclass(frozen=True)
class _Within:
    """The progress of one request."""

    round_number: int
    answered: int
    asked: int
    what: str
    stage: str

    @property
    def _trains(self) -> bool:
        return self.what in ("", "training")

    def part(self) -> float:
        """How much of a round is done, between 0 and 1; each stage of a secure sum counts as much as another."""
        if not self._trains:
            return 0.0
        done = min(1.0, self.answered / max(1, self.asked))
        return (STAGES.index(self.stage) + done) / len(STAGES) if self.stage in STAGES else done

    def shown(self) -> str:
        """In words."""
        name = f"round {self.round_number}" if self._trains else self.what
        stage = f", stage {STAGES.index(self.stage) + 1} of {len(STAGES)}" if self.stage in STAGES else ""
        return f"{name}{stage}: {self.answered} of {self.asked} clients answered"


class RunDisplay:
    """Shows a running federation: a live table on a terminal, one line a round elsewhere, nothing if quiet.

    Use it as a context manager and push events as they happen, or hand it to `follow_events`.
    """

    def __init__(
        self,
        total_rounds: int,
        *,
        title: str = "",
        quiet: bool = False,
        is_private: bool = True,
        finished: Sequence[Mapping[str, Any]] = (),
        measured: Mapping[int, Mapping[str, Any]] = MappingProxyType({}),
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepares the display; nothing is shown before the context is entered.

        Args:
            total_rounds: Rounds of the whole run; 0 for one of statistics alone, whose releases are counted instead.
            title: Stands above the table, for example the name of the run. (public)
            quiet: Show nothing at all.
            is_private: Whether the column of epsilon holds numbers; otherwise it says `off`.
            finished: Rows of rounds that ended before, when a run is resumed.
            measured: What is measured of each round by its number, filled before the round is announced. (private)
            console: Where to draw; stderr by default.
            clock: Seconds that only grow.
        """
        self._total = total_rounds
        self._released = 0
        self._title = plain(title)
        self._quiet = quiet
        self._is_private = is_private
        self._rows: list[Mapping[str, Any]] = list(finished)
        self._measured = measured
        self._said: set[str] = set()
        self._resumed = len(self._rows)
        self._console = console or Console(stderr=True)
        self._clock = clock
        self._start = self._round_start = clock()
        self._within: _Within | None = None
        self._live: Live | None = None

    def __enter__(self) -> "RunDisplay":
        """Starts the clock and, on a terminal, the live display."""
        self._start = self._round_start = self._clock()
        if self._quiet:
            return self
        if self._console.is_terminal:
            self._live = Live(get_renderable=self._render, console=self._console, refresh_per_second=4, transient=False)
            self._live.start()
        elif self._title:
            self._say(self._title)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Leaves the last state of the table on the screen and gives the terminal back."""
        if self._live is not None:
            live, self._live = self._live, None
            self._within = None
            live.stop()

    def round_finished(self, row: Mapping[str, Any]) -> None:
        """Adds a finished round.

        Args:
            row: One of the run record's `rounds`; what is missing is shown as missing.
        """
        row = {**row, **self._measured.get(row.get("round_number", 0), {})}
        self._rows.append(row)
        self._within = None
        self._round_start = self._clock()
        if self._quiet:
            return
        if self._live is not None:
            self._live.refresh()
        else:
            self._say(self._line(row))
        if failures := row.get("failures"):
            self._warn(f"round {row.get('round_number')}: a reply was left out. {failures[0]}")

    def progress(
        self, round_number: int, clients_answered: int, clients_asked: int, *, what: str = "", stage: str = ""
    ) -> None:
        """Shows how far the current round, or release before it, is; on a pipe it says nothing.

        Args:
            round_number: The current round, from 1; 0 before training.
            clients_answered: Clients that answered so far, in this stage where there are stages.
            clients_asked: Clients asked.
            what: What they are asked for.
            stage: Of a secure sum.
        """
        self._within = _Within(round_number, clients_answered, clients_asked, plain(what), plain(stage))

    def message(self, text: str) -> None:
        """Prints a line that stays, above the table.

        Args:
            text: One line without user ids or items.
        """
        if not self._quiet:
            self._say(plain(text), style="dim" if self._live is not None else "")

    def event(self, event: Mapping[str, Any]) -> None:
        """Passes on an event of a JSON-lines file.

        Args:
            event: `{"event": "round", **row}`, `{"event": "progress", "round_number", "clients_answered",
                "clients_asked", "what", "stage"}`, `{"event": "asked", "purpose"}`, `{"event": "selected", ...}`,
                `{"event": "secure_sum", ...}`,
                `{"event": "message", "text"}`, or `{"event": "round_dropped", "release_dropped", "checkpoint_damaged" or
                "stopped", "reason"}`; of other kinds nothing is shown.
        """
        kind = event.get("event")
        if kind == "round":
            self.round_finished({key: value for key, value in event.items() if key != "event"})
        elif kind == "progress":
            names = ("round_number", "clients_answered", "clients_asked")
            number, answered, asked = (int(finite(event.get(name)) or 0) for name in names)
            what, stage = (str(event.get(name, "")) for name in ("what", "stage"))
            self.progress(number, answered, asked, what=what, stage=stage)
        elif kind == "message":
            self.message(str(event.get("text", "")))
        elif kind == "asked" and event.get("purpose") != "train":
            self._released += 1
            self._within = None
            self.message(asked_sentence(str(event.get("purpose", ""))))
        elif kind == "selected":
            self.message(selection_sentence(event))
        elif kind == "secure_sum":
            self.message(sum_sentence(event))
        elif kind in ("round_dropped", "release_dropped", "checkpoint_damaged", "stopped"):
            self._warn(str(event.get("reason", "")))

    def _warn(self, text: str) -> None:
        """A line that stays, once: the same fault in every round is one fault to whoever watches."""
        reason = text.partition(": ")[2] or text
        if reason not in self._said and not self._quiet:
            self._said.add(reason)
            self._say(plain(text), style="yellow")

    def _say(self, text: str, style: str = "") -> None:
        self._console.print(Text(text, style=style), soft_wrap=True, highlight=False)

    def _line(self, row: Mapping[str, Any]) -> str:
        number, loss, hr, ndcg, epsilon, clients, seconds = self._cells(row)
        width = len(str(self._total))
        return (
            f"round {number:>{width}}/{self._total}  loss {loss}  HR {hr}  NDCG {ndcg}  "
            f"epsilon {epsilon}  clients {clients}  {seconds}"
        )

    def _cells(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        validation = section(row, "validation")
        means = [
            next((value for name, value in validation.items() if name.startswith(stem)), None) for stem in ("hr@", "ndcg@")
        ]
        spent = row.get("epsilon_spent")
        return (
            wording.count_text(row.get("round_number")),
            wording.metric_text(row.get("training_loss"), 3),
            wording.metric_text(means[0]),
            wording.metric_text(means[1]),
            wording.epsilon_text(spent) if self._is_private else "off",
            f"{wording.count_text(row.get('clients_answered'))}/{wording.count_text(row.get('clients_asked'))}",
            wording.seconds_text(row.get("seconds")),
        )

    def _render(self) -> RenderableType:
        if not self._total:
            return self._render_statistics()
        room = max(3, min(_VISIBLE_ROUNDS, self._console.height - 9))
        shown = self._rows[-room:]
        hidden = len(self._rows) - len(shown)
        table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold", expand=False)
        names = [next(iter(self._names(stem)), stem[:-1].upper()) for stem in ("hr@", "ndcg@")]
        for name in ("round", "loss", *names, "epsilon", "clients", "time"):
            table.add_column(name, justify="right", no_wrap=True, min_width=7)
        for position, row in enumerate(shown):
            latest = position == len(shown) - 1
            table.add_row(*map(Text, self._cells(row)), style="bold" if latest else "")
        parts: list[RenderableType] = []
        if self._title:
            parts.append(Text(self._title, style=f"bold {ACCENT}"))
        if hidden:
            parts.append(Text(f"{hidden} earlier rounds not shown", style="dim"))
        parts.append(table)
        parts.append(self._bar())
        parts.append(Text(self._state(), style="dim", no_wrap=True, overflow="ellipsis"))
        return Group(*parts)

    def _render_statistics(self) -> RenderableType:
        """What there is to see of a run without rounds: the messages above it, how many releases, and for how long."""
        title = [Text(self._title, style=f"bold {ACCENT}")] if self._title else []
        number = f"{self._released} release{'' if self._released == 1 else 's'} asked for"
        elapsed = wording.seconds_text(float(int(self._clock() - self._start))).replace(".0 s", " s")
        now = f"  {self._within.shown()}" if self._within else ""
        return Group(*title, Text(f"{number}  {elapsed}{now}", style="dim", no_wrap=True, overflow="ellipsis"))

    def _names(self, stem: str) -> Iterator[str]:
        for row in self._rows[-1:]:
            yield from (comparison.metric_label(name) for name in section(row, "validation") if name.startswith(stem))

    def _bar(self) -> RenderableType:
        done = len(self._rows)
        grid = Table.grid(padding=(0, 2), expand=True)
        grid.add_column(no_wrap=True)
        grid.add_column(ratio=1)
        grid.add_column(no_wrap=True, justify="right")
        left = self.seconds_left()
        elapsed = wording.seconds_text(float(int(self._clock() - self._start))).replace(".0 s", " s")
        ahead = "" if left is None else f", about {wording.seconds_text(float(round(left))).replace('.0 s', ' s')} left"
        grid.add_row(
            Text(f"{done}/{self._total} rounds", style="bold"),
            ProgressBar(total=self._total, completed=self._completed(), complete_style=ACCENT),
            Text(f"{elapsed}{ahead if done < self._total else ''}"),
        )
        return grid

    def _completed(self) -> float:
        if self._within is None or len(self._rows) >= self._total:
            return float(min(len(self._rows), self._total))
        return len(self._rows) + self._within.part()

    def seconds_left(self) -> float | None:
        """Estimates the time to the last round from the recent rounds of this process.

        Returns:
            Seconds >= 0, or None before the first round of this process ended.
        """
        measured = [
            seconds for row in self._rows[self._resumed :][-5:] if (seconds := finite(row.get("seconds"))) is not None
        ]
        if not measured:
            return None
        a_round = sum(measured) / len(measured)
        running = min(a_round, self._clock() - self._round_start)
        return max(0.0, (self._total - len(self._rows)) * a_round - running)

    def _state(self) -> str:
        if len(self._rows) >= self._total:
            return "all rounds finished"
        if self._within is None:
            return f"round {len(self._rows) + 1} starts"
        return self._within.shown()


def follow_events(path: Path, display: RunDisplay, *, stop: Event, poll_seconds: float = 0.2, offset: int = 0) -> None:
    """Feeds a display from a JSON-lines file that another process writes, until told to stop.

    Lines that are incomplete are read when they are complete; lines that are no JSON object are skipped,
    because a display must not end a run. What was written before `stop` was set is still shown.

    Args:
        path: The event file; it may not exist yet.
        display: An entered display.
        stop: Set by the caller when the writing process ended.
        poll_seconds: Pause between two looks, > 0.
        offset: Bytes to skip: what an earlier process wrote before this run was resumed.
    """
    rest = b""
    while True:
        last = stop.is_set()
        if path.exists():
            with path.open("rb") as stream:
                stream.seek(offset)
                fresh = stream.read()
            offset += len(fresh)
            *lines, rest = (rest + fresh).split(b"\n")
            for line in lines:
                try:
                    event = json.loads(line)
                except ValueError:
                    continue
                if isinstance(event, dict):
                    display.event(event)
        if last:
            return
        stop.wait(poll_seconds)
