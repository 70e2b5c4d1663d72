"""The section on new items: how well the model ranks what it knows by its modalities alone.

Lives here: which numbers of the record stand where. Never here: a metric; the only arithmetic is how many times a random
order a mean is.
"""

from collections.abc import Mapping
from typing import Any

from server.reporting import comparison
from server.reporting.charts import Bar, Reference, bar_chart
from server.reporting.reading import section
from shared import wording
from shared.wording import finite

_MODELS = (("among_new", "this run"), ("among_new_untrained", "nothing trained"))


def laid_out(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the section shows; None where no items were held out.

    Args:
        record: A run record; its `cold_items` may be absent or null. (private: exact metrics)
    """
    cold = section(record, "cold_items")
    if not cold:
        return None
    names = _names(cold)
    random = {name: {"mean": section(cold, "random").get(name)} for name in names}
    rows = [
        ("this run", "the new items", section(cold, "among_new")),
        ("nothing trained", "the new items", section(cold, "among_new_untrained")),
        ("a random order", "the new items", random),
        ("this run", "all items", section(cold, "among_all")),
    ]
    return {
        "new_items": wording.count_text(cold.get("items")),
        "known_items": wording.count_text(cold.get("known_items")),
        "users": wording.count_text(cold.get("users")),
        "columns": [comparison.metric_label(name) for name in names],
        "charts": [_chart(cold, name) for name in names],
        "rows": [(model, among, [section(estimates, name) for name in names]) for model, among, estimates in rows],
        "factor": _factor(cold),
    }


def sentence(record: Mapping[str, Any]) -> str:
    """What a terminal says of new items; empty where none were held out."""
    cold = section(record, "cold_items")
    factor = _factor(cold) if cold else ""
    if not factor:
        return ""
    return (
        f"Of {wording.count_text(cold.get('items'))} new items, known by their modalities alone, it ranks the right one "
        f"{factor} as well as a random order ({comparison.metric_label(_names(cold)[0])})."
    )


def _names(cold: Mapping[str, Any]) -> list[str]:
    k = wording.count_text(cold.get("k"))
    return [f"ndcg@{k}", f"hr@{k}"]


def _factor(cold: Mapping[str, Any]) -> str:
    name = _names(cold)[0]
    mean, random = finite(section(cold, "among_new", name).get("mean")), finite(section(cold, "random").get(name))
    return "" if mean is None or not random else f"{mean / random:.1f} times"


def _chart(cold: Mapping[str, Any], name: str) -> tuple[str, Any]:
    bars = []
    for key, label in _MODELS:
        estimate = section(cold, key, name)
        mean, low, high = (finite(estimate.get(part)) for part in ("mean", "low", "high"))
        bars.append(Bar(label, mean, wording.metric_text(mean), low=low, high=high, highlighted=key == "among_new"))
    level = finite(section(cold, "random").get(name))
    limit = None if level is None else Reference("random order", level, f"{level:.3f}", True)
    title = f"{comparison.metric_label(name)} among new items"
    return title, bar_chart(bars, label=f"{title}, with 95 % intervals", limit=limit)
