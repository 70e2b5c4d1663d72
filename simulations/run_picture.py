"""A run as a PNG: its quality beside the baselines, and its rounds.

Lives here: the drawing. Never here: a number that is not in the run's folder. The report draws its own charts without a
plotting library; this one is imported when a picture is written.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.files import write_atomically

if TYPE_CHECKING:
    import polars as pl

    from simulations.comparison.own import Estimate

_ACCENT, _QUIET = "#0f6b6b", "#8a929c"


def write_run_picture(path: Path, title: str, models: Mapping[str, Mapping[str, Estimate]], history: pl.DataFrame) -> None:
    """Writes the test NDCG of a run and its baselines with intervals, and the validation NDCG of its rounds.

    Args:
        path: The PNG.
        title: Name of the run. (public)
        models: Metrics by label, this run first. (private)
        history: Its rounds, one a row. (private)
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    name = next(name for name in next(iter(models.values())) if name.startswith("ndcg@"))
    column = f"validation.{name}"
    validated = history.drop_nulls(column) if column in history.columns else history.clear()
    both = len(validated) > 1
    figure = Figure(figsize=(9.6 if both else 6.4, 3.6), dpi=160, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2 if both else 1, squeeze=False)[0]
    _bars(panels[0], {label: metrics[name] for label, metrics in models.items() if metrics[name]["mean"] is not None})
    panels[0].set_xlabel(f"test {name}, full ranking")
    # A dollar sign would begin a formula.
    figure.suptitle(title.replace("$", r"\$"), x=0.01, ha="left", fontsize=11)
    if both:
        panels[1].plot(validated["round_number"], validated[column], color=_ACCENT, marker="o", markersize=3)
        panels[1].set_ylim(bottom=0)
        panels[1].xaxis.get_major_locator().set_params(integer=True)
        panels[1].set_xlabel("round")
        panels[1].set_ylabel(f"validation {name}")
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
    content = io.BytesIO()
    canvas.print_png(content)  # type: ignore[no-untyped-call]
    write_atomically(path, lambda stream: stream.write(content.getvalue()))


def _bars(axes: Any, estimates: Mapping[str, Estimate]) -> None:
    """A bar a model, this run first, with the interval over users where there is one."""
    places = range(len(estimates), 0, -1)
    means = [one["mean"] or 0.0 for one in estimates.values()]
    lows, highs = (_ends(estimates.values(), means, end) for end in ("low", "high"))
    colors = [_ACCENT, *[_QUIET] * (len(means) - 1)]
    axes.barh(places, means, xerr=[lows, highs], color=colors, height=0.6, capsize=3, error_kw={"elinewidth": 1})
    axes.set_yticks(places, [label.replace("$", r"\$") for label in estimates], fontsize=8.5)


def _ends(estimates: Iterable[Estimate], means: Sequence[float], end: str) -> list[float]:
    """How far an end of each interval is from its mean; 0 where there is no interval."""
    ends = [one[end] for one in estimates]
    return [0.0 if value is None else abs(value - mean) for value, mean in zip(ends, means, strict=True)]
