"""The frontier as a PNG, for a paper or a README.

Lives here: the drawing. Never here: a number that is not in `frontier.json`. The page draws its own chart without a plotting
library; this one is imported here alone, when a picture is written.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from server.reporting.comparison import metric_label
from server.reporting.frontier_page import LIMITS, positions
from server.reporting.reading import entries, section
from shared.files import write_atomically
from shared.wording import asked_text, finite

_ACCENT, _QUIET, _INK = "#0f6b6b", "#8a929c", "#1b1f24"
_LINES = (("test", "this model", _ACCENT, "-", -0.03), ("free_baseline", "free baseline, same epsilon", _QUIET, "--", 0.03))


def write_picture(path: Path, frontier: Mapping[str, Any]) -> None:
    """Writes the NDCG of each epsilon with its intervals, beside the free baseline and the limits.

    Args:
        path: The PNG.
        frontier: The content of `frontier.json`. (private: exact metrics)
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = [str(name) for name in frontier["metrics"]]
    name = next(name for name in names if name.startswith("ndcg"))
    summaries = entries(frontier, "summary")
    places = positions([finite(one.get("epsilon")) for one in summaries])
    figure = Figure(figsize=(7.2, 4.2), dpi=160, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for which, label, color, dashes, shift in _LINES:
        held = [section(one, which, name) for one in summaries]
        means = [finite(one.get("mean")) or 0.0 for one in held]
        ends = [
            [abs((finite(one.get(end)) or mean) - mean) for one, mean in zip(held, means, strict=True)]
            for end in ("low", "high")
        ]
        axes.errorbar(
            [place + shift for place in places], means, yerr=ends, label=label, color=color, linestyle=dashes, marker="o",
            markersize=4, capsize=3, linewidth=1.8, elinewidth=1.1,
        )  # fmt: skip
    for (key, label), style in zip(LIMITS.items(), (":", "-."), strict=True):
        value = finite(section(frontier, "limits", key, name).get("mean"))
        if value is not None:
            axes.axhline(value, color=_INK, linestyle=style, linewidth=1, label=f"{label}: {value:.3f}")
    axes.set_xticks(places, [asked_text(one.get("epsilon")) for one in summaries])
    axes.set_xlabel("epsilon (logarithmic)")
    axes.set_ylabel(f"test {metric_label(name)}, full ranking")
    # A dollar sign would begin a formula.
    axes.set_title(f"{frontier['data']}: quality against epsilon".replace("$", r"\$"), loc="left", fontsize=11)
    axes.grid(axis="y", color="#e2e4e7", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8.5, handlelength=3.5)
    content = io.BytesIO()
    canvas.print_png(content)  # type: ignore[no-untyped-call]
    write_atomically(path, lambda stream: stream.write(content.getvalue()))
