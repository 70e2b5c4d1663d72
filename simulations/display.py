"""The terminal side of a run: a live table while it trains, tables of results when it ended.

Lives here: what a person sees in the terminal for `simulate`, `recommend`, `doctor` and `data describe`.
Never here: the run itself, files other than the event file that `follow_events` reads, or a metric. All text
goes through `rich` as `Text`, with control characters removed: item texts and data set names come from files
that somebody else wrote, and a terminal obeys escape sequences. The live display goes to stderr, so that
`--json` has stdout for itself; on a pipe it becomes one plain line a round, because a log is read with grep.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from threading import Event
from types import MappingProxyType, TracebackType
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from server.reporting import cold_items, sentences
from server.reporting.records import parse_run
from server.reporting.released import asked_sentence, selection_sentence
from server.reporting.sentences import ModelRow, finite, section

_VISIBLE_ROUNDS = 15
_WIDE = 108
_ACCENT = "cyan"


def plain(value: object) -> str:
    """Returns text that a terminal cannot obey: one line, without control or formatting characters.

    Args:
        value: Anything; it is written with `str`. (private where it is an item's text)

    Returns:
        The text; each character that is not printable has become a space.
    """
    return "".join(character if character.isprintable() else " " for character in str(value))


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
            total_rounds: Rounds of the whole run, >= 1.
            title: Stands above the table, for example the name of the run. (public)
            quiet: Show nothing at all.
            is_private: Whether the column of epsilon holds numbers; otherwise it says `off`.
            finished: Rows of rounds that ended before, when a run is resumed.
            measured: What is measured of each round by its number, filled before the round is announced. (private)
            console: Where to draw; stderr by default.
            clock: Seconds that only grow.
        """
        self._total = max(1, total_rounds)
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
        self._within: tuple[int, int, int] | None = None
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

    def progress(self, round_number: int, clients_answered: int, clients_asked: int) -> None:
        """Shows how far the current round is; on a pipe it says nothing.

        Args:
            round_number: The current round, from 1.
            clients_answered: Clients that answered so far.
            clients_asked: Clients asked in this round.
        """
        self._within = (round_number, clients_answered, clients_asked)

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
                "clients_asked"}`, `{"event": "asked", "purpose"}`, `{"event": "selected", ...}`,
                `{"event": "message", "text"}`, or `{"event": "round_dropped" or "stopped", "reason"}`; of other kinds
                nothing is shown.
        """
        kind = event.get("event")
        if kind == "round":
            self.round_finished({key: value for key, value in event.items() if key != "event"})
        elif kind == "progress":
            names = ("round_number", "clients_answered", "clients_asked")
            self.progress(*(int(finite(event.get(name)) or 0) for name in names))
        elif kind == "message":
            self.message(str(event.get("text", "")))
        elif kind == "asked" and event.get("purpose") != "train":
            self.message(asked_sentence(str(event.get("purpose", ""))))
        elif kind == "selected":
            self.message(selection_sentence(event))
        elif kind in ("round_dropped", "stopped"):
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
            sentences.count_text(row.get("round_number")),
            sentences.metric_text(row.get("training_loss"), 3),
            sentences.metric_text(means[0]),
            sentences.metric_text(means[1]),
            sentences.epsilon_text(spent) if self._is_private else "off",
            f"{sentences.count_text(row.get('clients_answered'))}/{sentences.count_text(row.get('clients_asked'))}",
            sentences.seconds_text(row.get("seconds")),
        )

    def _render(self) -> RenderableType:
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
            parts.append(Text(self._title, style=f"bold {_ACCENT}"))
        if hidden:
            parts.append(Text(f"{hidden} earlier rounds not shown", style="dim"))
        parts.append(table)
        parts.append(self._bar())
        parts.append(Text(self._state(), style="dim", no_wrap=True, overflow="ellipsis"))
        return Group(*parts)

    def _names(self, stem: str) -> Iterator[str]:
        for row in self._rows[-1:]:
            yield from (sentences.metric_label(name) for name in section(row, "validation") if name.startswith(stem))

    def _bar(self) -> RenderableType:
        done = len(self._rows)
        grid = Table.grid(padding=(0, 2), expand=True)
        grid.add_column(no_wrap=True)
        grid.add_column(ratio=1)
        grid.add_column(no_wrap=True, justify="right")
        left = self.seconds_left()
        elapsed = sentences.seconds_text(float(int(self._clock() - self._start))).replace(".0 s", " s")
        ahead = "" if left is None else f", about {sentences.seconds_text(float(round(left))).replace('.0 s', ' s')} left"
        grid.add_row(
            Text(f"{done}/{self._total} rounds", style="bold"),
            ProgressBar(total=self._total, completed=self._completed(), complete_style=_ACCENT),
            Text(f"{elapsed}{ahead if done < self._total else ''}"),
        )
        return grid

    def _completed(self) -> float:
        if self._within is None or len(self._rows) >= self._total:
            return float(min(len(self._rows), self._total))
        _, answered, asked = self._within
        return len(self._rows) + min(1.0, answered / max(1, asked))

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
            return "all rounds finished" if self._total else "statistics alone, no rounds"
        if self._within is None:
            return f"round {len(self._rows) + 1} starts"
        number, answered, asked = self._within
        return f"round {number}: {answered} of {asked} clients answered"


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


def print_summary(record: Mapping[str, Any], console: Console, *, run_dir: Path | None = None) -> None:
    """Prints the comparison with the baselines, the privacy claim and where the artifacts are.

    Args:
        record: A run record. (private: exact metrics)
        console: Where to print; the table is laid out for 80 columns and up.
        run_dir: Where the run was written, shown before the artifacts.
    """
    interrupted = record.get("status") != "complete"
    rows = sentences.model_rows(record)
    console.print()
    if interrupted:
        _print_text(console, "The run was interrupted; the numbers are those of the finished rounds.", "yellow")
    if stopped := record.get("stopped"):
        _print_text(console, plain(stopped), "yellow")
    console.print(_comparison(record, rows, wide=console.width >= _WIDE))
    console.print()
    _print_text(console, sentences.quality_sentence(record), "bold")
    if selection := section(record, "selection"):
        _print_text(console, selection_sentence(selection), "")
    if cold := cold_items.sentence(record):
        _print_text(console, cold, "")
    run = parse_run(record)
    _print_text(console, sentences.claim_sentence(run.privacy), "" if run.privacy.is_private else "yellow")
    if continued := sentences.continued_sentence(run):
        _print_text(console, continued, "")
    artifacts = section(record, "artifacts")
    if run_dir is not None or artifacts:
        console.print()
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column(overflow="fold")
        if run_dir is not None:
            grid.add_row("written to", Text(plain(run_dir)))
        for name, path in artifacts.items():
            grid.add_row(Text(plain(name).replace("_", " ")), Text(plain(path)))
        console.print(grid)


def _comparison(record: Mapping[str, Any], rows: Sequence[ModelRow], *, wide: bool) -> Table:
    ndcg, hr = sentences.metric_name(record, "ndcg"), sentences.metric_name(record, "hr")
    columns = [("validation", hr), ("validation", ndcg), ("test", hr), ("test", ndcg)]
    table = Table(
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 2 if wide else 1, 0, 0),
        header_style="bold",
    )
    table.add_column("model", overflow="fold")
    table.add_column("private" if wide else "priv.", no_wrap=True)
    for split, name in columns:
        short = "valid" if split == "validation" else "test"
        table.add_column(f"{short}\n{sentences.metric_label(name)}", justify="right", no_wrap=True)
    minus = "this run minus it" if wide else "this run\nminus it"
    table.add_column(f"{minus}\n{sentences.metric_label(ndcg)}", justify="right", no_wrap=True)
    best = {column: sentences.best_value(rows, *column) for column in columns}
    for row in rows:
        label = Text(plain(row.label) + (" *" if row.own else ""))
        cells = [label, Text("yes" if row.private else "no")]
        for column in columns:
            mean = row.mean(*column)
            interval = sentences.interval_text(row.estimate(*column)) if column[0] == "test" else ""
            strong = "bold" if mean is not None and mean == best[column] else ""
            cells.append(_two(Text(sentences.metric_text(mean), style=strong), interval, wide))
        difference = section(row.difference, ndcg)
        p_value = sentences.p_value_text(difference.get("p_value"))
        cells.append(Text("") if row.own else _two(Text(sentences.signed_text(difference.get("mean"))), p_value, wide))
        table.add_row(*cells, style=_ACCENT if row.own else "")
    ceiling = section(record, "data", "ceiling")
    if ceiling:
        known = [Text(sentences.metric_text(ceiling.get(name))) for name in (hr, ndcg)]
        table.add_row(Text("best achievable"), "", "", "", *known, "", style="dim")
    return table


def _two(first: Text, second: str, wide: bool) -> Text:
    """A value with its interval or p-value: beside it where there is room, below it elsewhere."""
    if not second:
        return first
    return Text.assemble(first, " " if wide else "\n", Text(second, style="dim not bold"))


def print_description(description: Mapping[str, Any], console: Console) -> None:
    """Prints what a data file holds, and its warnings last.

    Args:
        description: Nested mappings of simple values; `warnings` is a list of sentences.
        console: Where to print.
    """
    grid = Table.grid(padding=(0, 3))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for depth, name, value in _described(description):
        grid.add_row(Text("  " * depth + name, style="bold" if value is None else "dim"), Text(value or ""))
    console.print(grid)
    warnings = description.get("warnings")
    listed = list(warnings) if isinstance(warnings, list | tuple) else []
    console.print()
    if not listed:
        _print_text(console, "No warnings.", "")
    sign = "!" if console.options.ascii_only else "▲"
    for warning in listed:
        console.print(_hanging(Text(sign, style="yellow"), Text(plain(warning))))


def _described(mapping: Mapping[str, Any], depth: int = 0) -> Iterator[tuple[int, str, str | None]]:
    for key, value in mapping.items():
        name = plain(key).replace("_", " ")
        if depth == 0 and key == "warnings":
            continue
        if isinstance(value, Mapping):
            yield depth, name, None
            yield from _described(value, depth + 1)
        elif isinstance(value, list | tuple):
            yield depth, name, ", ".join(_simple(entry) for entry in value) or sentences.MISSING
        elif key == "density" and finite(value) is not None:
            yield depth, name, sentences.percent_text(value, 3)
        elif key == "share_of_items" and finite(value) is not None:
            yield depth, name, sentences.percent_text(value, 1)
        else:
            yield depth, name, _simple(value)


def _simple(value: object) -> str:
    if value is None:
        return sentences.MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return sentences.MISSING if finite(value) is None else f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.1f}"
    return plain(value)


def print_recommendations(rows: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Prints a ranked list of items.

    Args:
        rows: Mappings with `rank`, `item`, `text`, `score` and whether it is `new`, best first. (private: of one user)
        console: Where to print.
    """
    if not rows:
        _print_text(console, "Nothing to recommend: the history holds the whole catalog.", "")
        return
    items = [Text(plain(row.get("item", "")) + (" (new)" if row.get("new") else "")) for row in rows]
    scores = [sentences.metric_text(row.get("score"), 3).replace("-", "−") for row in rows]
    for item in items:
        item.truncate(24, overflow="ellipsis")
    taken = 4 + max(4, *(item.cell_len for item in items)) + max(5, *map(len, scores)) + 3 * 3
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("rank", justify="right", no_wrap=True)
    table.add_column("item", no_wrap=True)
    table.add_column("text", no_wrap=True)
    table.add_column("score", justify="right", no_wrap=True)
    for row, item, score in zip(rows, items, scores, strict=True):
        text = Text(plain(row.get("text", "")))
        text.truncate(max(8, console.width - taken), overflow="ellipsis")
        table.add_row(Text(sentences.count_text(row.get("rank"))), item, text, Text(score))
    console.print(table)


def print_doctor(checks: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Prints what was checked, and for everything that fails how to mend it.

    Args:
        checks: Mappings with `name`, `value`, `ok` (None: for information only) and `advice`.
        console: Where to print.
    """
    ascii_only = console.options.ascii_only
    signs = {
        True: Text("ok" if ascii_only else "✓", style="green"),
        False: Text("!!" if ascii_only else "✗", style="bold red"),
        None: Text("-" if ascii_only else "·", style="dim"),
    }
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for check in checks:
        ok = check.get("ok")
        value = Text(plain(check.get("value", "")))
        if ok is not True and check.get("advice"):
            value.append("\n" + plain(check["advice"]), style="yellow")
        grid.add_row(signs.get(ok, signs[None]), Text(plain(check.get("name", ""))), value)
    console.print(grid)
    failed = sum(check.get("ok") is False for check in checks)
    console.print()
    if failed:
        _print_text(console, f"{failed} of {len(checks)} checks need attention.", "bold red")
    else:
        _print_text(console, "Everything that is needed is here.", "bold green")


def _hanging(sign: Text, body: Text) -> Padding:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(sign, body)
    return Padding(grid, (0, 0, 0, 0))


def _print_text(console: Console, text: str, style: str) -> None:
    console.print(Text(plain(text), style=style), highlight=False)
