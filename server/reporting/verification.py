"""Whether the numbers of a release report follow from its own events.

`tacit report` asks before it renders a page that may be handed out. Never here: whether the events are those of the run; the
manifest, whose digest the report names, says that.
"""

from __future__ import annotations

import math

from server.reporting.records import ReleaseRecord
from shared import wording
from shared.errors import PrivacyError
from shared.privacy.recomputation import RELATIVE, agree, epsilons_at, mismatch, verify_statement


def verify_release(report: ReleaseRecord) -> None:
    """Raises unless the epsilons of a release report follow from its own events.

    Guarantee:
        When this returns, every claim and bound of the report, and every point of its curve over delta, is what the
        accountant finds for the events in the report, and no epsilon over rounds is above the one of this run.

    Args:
        report: As it was read. (public)

    Raises:
        PrivacyError: If one does not.
    """
    name = "release.json"
    verify_statement(report, name=name)
    if report.continues is None and not agree(report.spending.rdp_cross_check, report.rdp_cross_check):
        raise mismatch(name, said=report.spending.rdp_cross_check, which="of the cross-check", found=report.rdp_cross_check)
    found = epsilons_at(report, [point.delta for point in report.delta_curve])
    for point, epsilon in zip(report.delta_curve, found, strict=True):
        if not agree(point.epsilon, epsilon):
            raise mismatch(name, said=point.epsilon, which=f"at delta={wording.delta_text(point.delta)}", found=epsilon)
    highest = max((_number(point.epsilon) for point in report.epsilon_over_rounds), default=0.0)
    if highest > _number(report.epsilon_of_this_run) * (1.0 + RELATIVE):
        raise PrivacyError(
            f"Expected epsilon over rounds of at most that of the run in {name}, got "
            f"epsilon={wording.epsilon_text(highest)}. The file was changed or damaged: restore it, and do not pass it on."
        )


def _number(epsilon: float | None) -> float:
    return math.inf if epsilon is None else epsilon
