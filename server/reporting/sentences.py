"""Numbers and privacy claims of a run record, as words.

Lives here: how a metric, an interval, an epsilon, a size or a duration is written, which rows the model
comparison has, and the one-sentence privacy claim. The page and the terminal display both use it, so that
they cannot say different things. Never here: HTML, terminal colors, or a metric computed from data.

Two rules protect the reader. Epsilon and delta are rounded up, never down. A claim counts as protection
only if the run is private, the claim says so *and* its epsilon is finite; a record that contradicts itself
is shown as unprotected.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Context, Decimal
from typing import Any, Literal

from shared import wording
from shared.errors import CheckpointError
from shared.privacy.supported_claims import LARGEST_MEANINGFUL_EPSILON

SCHEMA = "tacit-run-1"
"""The only schema of run records that this package reads."""

RELEASE_SCHEMA = "tacit-release-1"
"""The only schema of release reports that this package reads."""

MISSING = "–"
"""What stands where the record holds no number."""

OWN_LABEL = "this run"
"""The label of the recommender that the run trained, beside its baselines."""

DEFAULT_STAMP = "NOT PRIVATE: this record holds exact values that no noise protects."
"""The stamp of a record that carries none: the absence of a stamp makes nothing private."""

_METRIC_LABELS = {
    "hr": "HR",
    "ndcg": "NDCG",
    "mrr": "MRR",
    "map": "MAP",
    "f1": "F1",
    "auc": "AUC",
}


def check_schema(record: Mapping[str, Any], *, schema: str = SCHEMA, name: str = "run.json") -> None:
    """Refuses a record that this version cannot read.

    Args:
        record: A run record or a release report. (private: it may hold exact metrics)
        schema: What it has to be.
        name: Its file name, for the message.

    Raises:
        CheckpointError: If the record is of another schema.
    """
    if record.get("schema") != schema:
        raise CheckpointError(
            f"Expected schema == '{schema}' in {name}, got schema={record.get('schema')!r}. "
            "Render the report with the version of Tacit that wrote the record."
        )


def section(record: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Returns a nested mapping of the record, or an empty one where the path is absent or null.

    Args:
        record: A run record or a part of it.
        *names: Keys from the outside in.

    Returns:
        A shallow copy of the mapping at that place.
    """
    here: Any = record
    for name in names:
        here = here.get(name) if isinstance(here, Mapping) else None
    return dict(here) if isinstance(here, Mapping) else {}


def entries(record: Mapping[str, Any], *names: str) -> list[dict[str, Any]]:
    """Returns a nested list of mappings of the record; what is no mapping is left out.

    Args:
        record: A run record or a part of it.
        *names: Keys from the outside in, at least one.

    Returns:
        The mappings in their order; empty where the path is absent or null.
    """
    found = section(record, *names[:-1]).get(names[-1])
    return [dict(entry) for entry in found if isinstance(entry, Mapping)] if isinstance(found, (list, tuple)) else []


def texts(record: Mapping[str, Any], name: str) -> list[str]:
    """Returns a list of the record as texts.

    Args:
        record: A run record or a part of it.
        name: The key of the list.

    Returns:
        The texts in their order; empty where there is no such list.
    """
    found = record.get(name)
    return [str(item) for item in found if item is not None] if isinstance(found, (list, tuple)) else []


def finite(value: object) -> float | None:
    """Returns a finite number as float, and None for null, NaN, infinity and everything else.

    Args:
        value: What the record holds at some place.

    Returns:
        The number, or None where there is nothing to draw or print.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def metric_text(value: object, digits: int = 4) -> str:
    """Writes a metric with a fixed number of decimals.

    Args:
        value: The metric, or nothing.
        digits: Decimals, >= 0.

    Returns:
        For example `0.0847`, or `MISSING`.
    """
    number = finite(value)
    return MISSING if number is None else f"{number:.{digits}f}"


def signed_text(value: object, digits: int = 4) -> str:
    """Writes a difference with its sign, the minus as the real minus sign.

    Args:
        value: The difference, or nothing.
        digits: Decimals, >= 0.

    Returns:
        For example `+0.0120` or `−0.0120`, or `MISSING`.
    """
    number = finite(value)
    return MISSING if number is None else f"{number:+.{digits}f}".replace("-", "−")


def interval_text(estimate: Mapping[str, Any], digits: int = 3) -> str:
    """Writes the 95 % interval of an estimate.

    Args:
        estimate: Holds `low` and `high`.
        digits: Decimals, >= 0.

    Returns:
        For example `0.074–0.096` (`−0.010 to 0.004` with negative ends), or the empty string.
    """
    low, high = finite(estimate.get("low")), finite(estimate.get("high"))
    if low is None or high is None:
        return ""
    if low < 0 or high < 0:
        return f"{low:.{digits}f} to {high:.{digits}f}".replace("-", "−")
    return f"{low:.{digits}f}–{high:.{digits}f}"


def percent_text(share: object, digits: int = 1) -> str:
    """Writes a share as a percentage.

    Args:
        share: In [0, 1] as a rule, or nothing.
        digits: Decimals, >= 0.

    Returns:
        For example `13.7 %`, or `MISSING`.
    """
    number = finite(share)
    return MISSING if number is None else f"{100 * number:.{digits}f} %"


def count_text(value: object) -> str:
    """Writes a count with thousands separated.

    Args:
        value: The count, or nothing.

    Returns:
        For example `100,000`, or `MISSING`.
    """
    number = finite(value)
    return MISSING if number is None else f"{number:,.0f}"


def seconds_text(value: object) -> str:
    """Writes a duration in the unit a person would choose.

    Args:
        value: Seconds, or nothing.

    Returns:
        For example `4.2 s`, `3 min 12 s`, `1 h 04 min`, or `MISSING`.
    """
    number = finite(value)
    if number is None:
        return MISSING
    if number < 59.95:
        return f"{number:.1f} s"
    whole = round(number)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def bytes_text(value: object) -> str:
    """Writes a size in decimal units.

    Args:
        value: Bytes, or nothing.

    Returns:
        For example `328 kB`, or `MISSING`.
    """
    number = finite(value)
    if number is None:
        return MISSING
    for unit in ("B", "kB", "MB", "GB"):
        if abs(number) < 1000 or unit == "GB":
            break
        number /= 1000
    return f"{number:.0f} {unit}" if unit == "B" or number >= 100 else f"{number:.1f} {unit}"


def epsilon_text(value: object) -> str:
    """Writes an epsilon, rounded up to two decimals so that no claim reads stronger than it is.

    Args:
        value: Epsilon; null stands for infinity.

    Returns:
        For example `6.54`, or `∞`. Excess below 1e-9 counts as rounding noise of the accountant.
    """
    number = finite(value)
    if number is None:
        return "∞"
    return wording.at_most(number)


def delta_text(value: object) -> str:
    """Writes a delta, rounded up to three significant digits.

    Args:
        value: Delta in [0, 1), or nothing.

    Returns:
        For example `1e-5` or `2.51e-6`, or `MISSING`.
    """
    number = finite(value)
    if number is None:
        return MISSING
    if number == 0:
        return "0"
    up = Context(prec=3, rounding=ROUND_CEILING).create_decimal(Decimal(repr(number))).normalize()
    digits = "".join(map(str, up.as_tuple().digits))
    mantissa = digits[0] + ("." + digits[1:] if digits[1:] else "")
    return f"{mantissa}e{up.adjusted()}"


def rounded_text(value: object, *, up: bool, digits: int = 6) -> str:
    """Writes a number rounded in the direction that does not flatter.

    Args:
        value: The number, or nothing.
        up: Upward, for example a sampling rate; downward, for example a noise multiplier.
        digits: Significant digits, >= 1.

    Returns:
        For example `0.106045`, or `MISSING`.
    """
    number = finite(value)
    if number is None:
        return MISSING
    return wording.significant(number, up=up, digits=digits)


def p_value_text(value: object) -> str:
    """Writes a p-value.

    Args:
        value: In [0, 1], or nothing.

    Returns:
        For example `p = 0.012` or `p < 0.001`, or the empty string.
    """
    number = finite(value)
    if number is None:
        return ""
    return "p < 0.001" if number < 0.001 else f"p = {number:.3f}"


def metric_label(name: str) -> str:
    """Writes a metric's name as papers do.

    Args:
        name: For example `ndcg@10` or `item_coverage@10`.

    Returns:
        For example `NDCG@10` or `Item coverage@10`.
    """
    stem, at, cutoff = name.partition("@")
    plain = stem.replace("_", " ")
    return _METRIC_LABELS.get(stem, plain[:1].upper() + plain[1:]) + at + cutoff


def metric_name(record: Mapping[str, Any], stem: str) -> str:
    """Finds the name under which the record holds a metric, whatever its cut-off.

    Args:
        record: A run record.
        stem: `hr` or `ndcg`.

    Returns:
        For example `ndcg@10`, which is also the answer when the record holds no such metric.
    """
    names = [name for split in ("test", "validation") for name in section(record, "metrics", split)]
    names += [name for row in entries(record, "rounds") for name in section(row, "validation")]
    return next((name for name in names if name.startswith(stem + "@")), f"{stem}@10")


@dataclass(frozen=True)
class ModelRow:
    """One row of the model comparison: the run's own recommender, or a baseline.

    Attributes:
        key: What the baseline is called in a configuration; empty for the run's own recommender.
        label: What a person reads.
        own: Whether this is the run's own recommender.
        private: Whether the model was trained under the run's privacy unit.
        metrics: `{"validation": {name: {mean, low, high}}, "test": {...}}`, of which parts may be missing.
        difference: `{name: {mean, low, high, p_value}}`, own minus baseline on the test split.
        seconds: What the model took, where recorded.
    """

    key: str
    label: str
    own: bool
    private: bool
    metrics: dict[str, Any]
    difference: dict[str, Any]
    seconds: float | None

    def estimate(self, split: str, name: str) -> dict[str, Any]:
        """Returns `{mean, low, high}` of a metric on a split, empty where it was not measured."""
        return section(self.metrics, split, name)

    def mean(self, split: str, name: str) -> float | None:
        """Returns the mean of a metric on a split, None where it was not measured."""
        return finite(self.estimate(split, name).get("mean"))


def model_rows(record: Mapping[str, Any]) -> list[ModelRow]:
    """Lists the models of the record: the run's own first, then the baselines in the record's order.

    Args:
        record: A run record.

    Returns:
        At least one row.
    """
    own = ModelRow(
        key="",
        label=OWN_LABEL,
        own=True,
        private=section(record, "privacy").get("is_private") is True,
        metrics=section(record, "metrics"),
        difference={},
        seconds=finite(section(record, "timings").get("training_seconds")),
    )
    rows = [
        ModelRow(
            key=str(baseline.get("key", "")),
            label=str(baseline.get("label") or baseline.get("key") or "unnamed"),
            own=False,
            private=baseline.get("private") is True,
            metrics=section(baseline, "metrics"),
            difference=section(baseline, "difference"),
            seconds=finite(baseline.get("seconds")),
        )
        for baseline in entries(record, "baselines")
    ]
    return [own, *rows]


def best_value(rows: Sequence[ModelRow], split: str, name: str) -> float | None:
    """Finds the largest mean of a column, for emphasis.

    Args:
        rows: The comparison.
        split: `validation` or `test`.
        name: A metric of which more is better.

    Returns:
        The largest mean, or None where fewer than two rows hold one.
    """
    means = [mean for row in rows if (mean := row.mean(split, name)) is not None]
    return max(means) if len(means) > 1 else None


@dataclass(frozen=True)
class Verdict:
    """How the run compares with the free baseline, text similarity plus popularity.

    Attributes:
        outcome: `better` or `worse` if the 95 % interval of the difference excludes zero, else `level`.
        baseline: The baseline.
        difference: `{mean, low, high, p_value}`, own minus baseline.
    """

    outcome: Literal["better", "worse", "level"]
    baseline: ModelRow
    difference: dict[str, Any]

    @property
    def words(self) -> str:
        """The outcome as the middle of a sentence."""
        return {
            "better": "better than",
            "worse": "worse than",
            "level": "not distinguishable from",
        }[self.outcome]


def verdict(record: Mapping[str, Any]) -> Verdict | None:
    """Compares the run with the free baseline by the recorded interval of their difference.

    Args:
        record: A run record.

    Returns:
        The verdict, or None where the record holds no text baseline or no difference to it.
    """
    name = metric_name(record, "ndcg")
    for row in model_rows(record):
        difference = section(row.difference, name)
        if row.own or not row.key.startswith("text") or finite(difference.get("mean")) is None:
            continue
        low, high = finite(difference.get("low")), finite(difference.get("high"))
        if low is not None and low > 0:
            return Verdict("better", row, difference)
        if high is not None and high < 0:
            return Verdict("worse", row, difference)
        return Verdict("level", row, difference)
    return None


def ceiling_share(record: Mapping[str, Any], name: str) -> float | None:
    """Returns the share of the best achievable score that the run reached on the test split.

    Args:
        record: A run record.
        name: A metric.

    Returns:
        The share, or None where the ceiling is not known or not positive.
    """
    best = finite(section(record, "data", "ceiling").get(name))
    own = model_rows(record)[0].mean("test", name)
    return None if best is None or best <= 0 or own is None else own / best


def who(claim: Mapping[str, Any]) -> str:
    """Names the adversary of a claim for people; where the claim has no words for it, by its stable key."""
    return str(claim.get("who") or claim.get("adversary") or "adversary not stated")


def why_not(privacy: Mapping[str, Any]) -> str:
    """Says why a run is not private, as the end of a sentence."""
    reason = str(privacy.get("why_not") or "the run makes no privacy claim")
    return reason.removeprefix("not private: ").rstrip(".")


def claim_protects(privacy: Mapping[str, Any], claim: Mapping[str, Any]) -> bool:
    """Decides whether a claim may be shown as protection.

    Guarantee:
        True only if the run is private, the claim says protected, its epsilon is finite, and no assumption that it rests on
        is said to fail, neither by the claim nor in the block's list.

    Args:
        privacy: The `privacy` part of a run record, or a release report.
        claim: One of `privacy["claims"]`.

    Returns:
        Whether the adversary of this claim is held to a finite epsilon.
    """
    is_private = privacy.get("is_private") is True
    void = failed_assumptions(claim) or any(
        row.get("holds") is False and claim.get("adversary") in texts(row, "voids")
        for row in entries(privacy, "assumptions")
    )
    return is_private and not void and claim.get("protected") is True and finite(claim.get("epsilon")) is not None


def is_meaningful(claim: Mapping[str, Any]) -> bool:
    """Whether a claim's epsilon is small enough to be of use."""
    bound = finite(claim.get("epsilon"))
    return bound is not None and bound <= LARGEST_MEANINGFUL_EPSILON


def not_kept(privacy: Mapping[str, Any]) -> str | None:
    """Says that a private run does not protect as it was planned to, and why.

    Args:
        privacy: The `privacy` part of a run record, a release report, or an explained plan.

    Returns:
        One sentence; None where the claim against the run's own adversary holds, or the run claims nothing at all.
    """
    if privacy.get("is_private") is not True:
        return None
    own = [claim for claim in entries(privacy, "claims") if claim.get("adversary") == privacy.get("adversary")]
    if not own or claim_protects(privacy, own[0]):
        return None
    failed = failed_assumptions(own[0])
    because = f", because this does not hold: {'; '.join(failed)}" if failed else ""
    return f"NOT PROTECTED against {who(own[0])}, as was planned{because}."


def failed_assumptions(claim: Mapping[str, Any]) -> list[str]:
    """The assumptions that a claim rests on and that do not hold, as sentences."""
    return texts(claim, "failed_assumptions")


def claim_sentence(record: Mapping[str, Any]) -> str:
    """Writes the privacy claims with unit, scope, relation, adversary, epsilon and delta in one sentence.

    Args:
        record: A run record.

    Returns:
        One sentence; it starts with `NOT PRIVATE` where the run makes no claim.
    """
    privacy = section(record, "privacy")
    if privacy.get("is_private") is not True:
        return f"NOT PRIVATE: {why_not(privacy)}."
    claims = entries(record, "privacy", "claims")
    unit = privacy.get("unit") or "not stated"
    if not claims:
        relation = privacy.get("neighboring_relation") or "relation not stated"
        return (
            f"Unit {unit}, {relation}: epsilon {epsilon_text(privacy.get('epsilon'))}, "
            f"delta {delta_text(privacy.get('delta'))}; the record names no adversary."
        )
    scopes = list(dict.fromkeys(str(claim["scope"]) for claim in claims if claim.get("scope")))
    against: dict[str, list[str]] = {}
    for claim in claims:
        if claim_protects(privacy, claim):
            delta = delta_text(claim.get("delta"))
            bound = f"epsilon {epsilon_text(claim.get('epsilon'))} ({claim.get('relation')}, delta {delta})"
            if not is_meaningful(claim):
                bound = f"no meaningful protection, {bound},"
            against.setdefault(bound, []).append(who(claim))
    exposed = [who(claim) for claim in claims if not claim_protects(privacy, claim)]
    if exposed:
        against["no protection"] = exposed
    subject = ", ".join([f"Unit {unit}", *(f"released: {scope}" for scope in scopes)])
    first = not_kept(privacy)
    return (
        (f"{first} " if first else "")
        + f"{subject}: "
        + "; ".join(f"{bound} against {_listed(names)}" for bound, names in against.items())
        + "."
    )


def continued_sentence(record: Mapping[str, Any]) -> str:
    """Says which run this one continues, and what all of them cost one user together; empty where it continues none.

    Args:
        record: A run record.
    """
    before = section(record, "continues")
    if not before:
        return ""
    digest = str(before.get("manifest_digest"))[:12]
    first = f"Continues the model released as {digest} ({count_text(before.get('runs'))} earlier run(s))"
    privacy = section(record, "privacy")
    if privacy.get("is_private") is not True:
        return f"{first}."
    own, together = epsilon_text(privacy.get("epsilon_of_this_run")), epsilon_text(privacy.get("epsilon"))
    sentence = (
        f"{first}, which claimed epsilon {epsilon_text(before.get('epsilon'))}; this run alone {own}; all runs together "
        f"{together} for a user who is in all of them."
    )
    ledger = section(privacy, "ledger")
    if not ledger:
        return sentence
    most = epsilon_text(ledger.get("epsilon_known_participation"))
    return f"{sentence} By the ledger, the account that spent most has spent epsilon {most}."


def quality_sentence(record: Mapping[str, Any]) -> str:
    """Writes how good the recommendations are, against the free baseline and the best achievable score.

    Args:
        record: A run record. (private: exact metrics)

    Returns:
        One sentence.
    """
    name = metric_name(record, "ndcg")
    own, compared = model_rows(record)[0], verdict(record)
    mean = own.mean("test", name)
    if mean is None:
        return "The recommendations were not evaluated on the test split."
    sentence = f"Test {metric_label(name)} is {mean:.4f}"
    if compared is not None:
        p_value = p_value_text(compared.difference.get("p_value"))
        inside = ", ".join(filter(None, [metric_text(compared.baseline.mean("test", name)), p_value]))
        sentence += f", {compared.words} the free baseline {compared.baseline.label} ({inside})"
    share = ceiling_share(record, name)
    if share is not None:
        sentence += f", and {percent_text(share, 0)} of the best achievable"
    return sentence + "."


def _listed(names: Sequence[str]) -> str:
    """Joins names: `a`, `a and b`, `a, b, and c`; with a comma before the `and` where a name holds one."""
    if len(names) == 1:
        return names[0]
    comma = "," if len(names) > 2 or any("," in name for name in names) else ""
    return f"{', '.join(names[:-1])}{comma} and {names[-1]}"
