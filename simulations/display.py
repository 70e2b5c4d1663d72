"""Tables of results in the terminal: `simulate`, `recommend`, `doctor` and `data describe`.

Lives here: layout. Never here: the run itself, a file, or a metric. All text goes through `rich` as `Text`, with control
characters removed (`terminal.py`).
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from server.reporting import cold_items, comparison, sentences
from server.reporting.comparison import ModelRow
from server.reporting.reading import section
from server.reporting.records import parse_run
from server.reporting.released import release_rows, selection_sentence, spent_sentence
from shared import wording
from shared.privacy.statement import Statement
from shared.wording import finite
from simulations.terminal import ACCENT, hanging, plain, print_text

_WIDE = 108


def print_summary(record: Mapping[str, Any], console: Console, *, run_dir: Path | None = None) -> None:
    """Prints the comparison with the baselines, the privacy claim and where the artifacts are.

    Args:
        record: A run record. (private: exact metrics)
        console: Where to print; the table is laid out for 80 columns and up.
        run_dir: Where the run was written, shown before the artifacts.
    """
    interrupted = record.get("status") != "complete"
    rows = comparison.model_rows(record)
    console.print()
    if interrupted:
        print_text(console, "The run was interrupted; the numbers are those of what was finished.", "yellow")
    if stopped := record.get("stopped"):
        print_text(console, plain(stopped), "yellow")
    console.print(_comparison(record, rows, wide=console.width >= _WIDE))
    console.print()
    print_text(console, comparison.quality_sentence(record), "bold")
    if selection := section(record, "selection"):
        print_text(console, selection_sentence(selection), "")
    if cold := cold_items.sentence(record):
        print_text(console, cold, "")
    run = parse_run(record)
    if not run.privacy.mechanism.rounds and run.privacy.releases:
        console.print()
        console.print(_releases(run.privacy))
        console.print()
    if spent := spent_sentence(run.privacy):
        print_text(console, spent, "")
    print_text(console, sentences.claim_sentence(run.privacy), "" if run.privacy.is_private else "yellow")
    if continued := sentences.continued_sentence(run):
        print_text(console, continued, "")
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


def _releases(statement: Statement) -> Table:
    """What a run without training released, each with its noise and its share of the budget."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("released", no_wrap=True)
    for name in ("times", "noise multiplier", "noise in each sum", "share"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in release_rows(statement):
        table.add_row(*map(Text, row))
    return table


def _comparison(record: Mapping[str, Any], rows: Sequence[ModelRow], *, wide: bool) -> Table:
    ndcg, hr = comparison.metric_name(record, "ndcg"), comparison.metric_name(record, "hr")
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
        table.add_column(f"{short}\n{comparison.metric_label(name)}", justify="right", no_wrap=True)
    minus = "this run minus it" if wide else "this run\nminus it"
    table.add_column(f"{minus}\n{comparison.metric_label(ndcg)}", justify="right", no_wrap=True)
    best = {column: comparison.best_value(rows, *column) for column in columns}
    for row in rows:
        label = Text(plain(row.label) + (" *" if row.own else ""))
        cells = [label, Text("yes" if row.private else "no")]
        for column in columns:
            mean = row.mean(*column)
            interval = wording.interval_text(row.estimate(*column)) if column[0] == "test" else ""
            strong = "bold" if mean is not None and mean == best[column] else ""
            cells.append(_two(Text(wording.metric_text(mean), style=strong), interval, wide))
        difference = section(row.difference, ndcg)
        p_value = wording.p_value_text(difference.get("p_value"))
        cells.append(Text("") if row.own else _two(Text(wording.signed_text(difference.get("mean"))), p_value, wide))
        table.add_row(*cells, style=ACCENT if row.own else "")
    ceiling = section(record, "data", "ceiling")
    if ceiling:
        known = [Text(wording.metric_text(ceiling.get(name))) for name in (hr, ndcg)]
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
        print_text(console, "No warnings.", "")
    sign = "!" if console.options.ascii_only else "▲"
    for warning in listed:
        console.print(hanging(Text(sign, style="yellow"), Text(plain(warning))))


def _described(mapping: Mapping[str, Any], depth: int = 0) -> Iterator[tuple[int, str, str | None]]:
    for key, value in mapping.items():
        name = plain(key).replace("_", " ")
        if depth == 0 and key == "warnings":
            continue
        if isinstance(value, Mapping):
            yield depth, name, None
            yield from _described(value, depth + 1)
        elif isinstance(value, list | tuple):
            yield depth, name, ", ".join(_simple(entry) for entry in value) or wording.MISSING
        elif key == "density" and finite(value) is not None:
            yield depth, name, wording.percent_text(value, 3)
        elif key == "share_of_items" and finite(value) is not None:
            yield depth, name, wording.percent_text(value, 1)
        else:
            yield depth, name, _simple(value)


def _simple(value: object) -> str:
    if value is None:
        return wording.MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return wording.MISSING if finite(value) is None else f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.1f}"
    return plain(value)


def print_recommendations(rows: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Prints a ranked list of items.

    Args:
        rows: Mappings with `rank`, `item`, `text`, `score` and whether it is `new`, best first. (private: of one user)
        console: Where to print.
    """
    if not rows:
        print_text(console, "Nothing to recommend: the history holds the whole catalog.", "")
        return
    items = [Text(plain(row.get("item", "")) + (" (new)" if row.get("new") else "")) for row in rows]
    scores = [wording.metric_text(row.get("score"), 3).replace("-", "−") for row in rows]
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
        table.add_row(Text(wording.count_text(row.get("rank"))), item, text, Text(score))
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
        print_text(console, f"{failed} of {len(checks)} checks need attention.", "bold red")
    else:
        print_text(console, "All checks passed.", "bold green")
