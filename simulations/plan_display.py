"""`tacit privacy plan` for people: the claim in a sentence, a line an adversary, what each knob would cost.

Lives here: layout of the plan's statement. Never here: a promise, which the statement phrases itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from server.reporting import protection
from shared import wording
from simulations.plan_record import PlanRecord, RefusedPlan, parse_plan


def print_plan(explained: Mapping[str, Any], console: Console) -> None:
    """Prints what `simulations.privacy_plan.explain` made."""
    plan = parse_plan(explained)
    if isinstance(plan, RefusedPlan):
        _print_knobs(plan, "refused", "see below", console)
        return
    data, mechanism = plan.data, plan.mechanism
    console.print(
        f"[bold]{data.name}[/]: {wording.count_text(data.users)} users as {wording.count_text(data.clients)} clients, "
        f"{wording.rounds_text(mechanism.rounds)}, unit {mechanism.unit}, mechanism {mechanism.name}"
    )
    _print_promise(plan, console)
    for warning in plan.warnings:
        console.print(f"[yellow]warning:[/] {warning}")
    _print_division(plan, console)
    _print_claims(plan, console)
    if plan.is_private:
        two = "A person with two accounts" if mechanism.unit == "user" else "Two windows of one history"
        console.print(
            f"{two}: epsilon {wording.epsilon_text(plan.group.epsilon)} instead of {wording.epsilon_text(plan.epsilon)}, at "
            "the same delta."
        )
    _print_knobs(plan, _multiplier(plan.noise.noise_multiplier), "x 1.00", console)
    for one in plan.assumptions:
        if not one.holds:
            console.print(f"[yellow]does not hold{'' if one.voids else ' (a stated limit)'}:[/] {one.text}")
    console.print("[bold]A client sends[/]")
    for what, when, how in protection.sent_rows(plan):
        console.print(f"  {what} ({when}): {how}")
    console.print("[bold]Not protected[/]")
    for line in plan.not_protected:
        console.print(f"  {line}")


def _print_promise(plan: PlanRecord, console: Console) -> None:
    if not plan.is_private:
        console.print(plan.headline, style="yellow", markup=False)
        return
    if plan.not_kept:
        console.print(plan.not_kept, style="red", markup=False)
    console.print(plan.headline, markup=False)
    noise, mechanism = plan.noise, plan.mechanism
    if not mechanism.rounds:
        console.print(f"[bold]Noise[/]: added {noise.where.partition(',')[0]}, to each release.")
        return
    console.print(
        f"[bold]Noise[/]: added {noise.where}; multiplier {_multiplier(noise.noise_multiplier)} (standard "
        f"deviation over the clip norm {wording.rounded_text(mechanism.l2_clip_norm, up=True)}), "
        f"{wording.rounded_text(noise.in_the_mean, up=True, digits=3)} clip norms in each coordinate of a mean."
    )


def _multiplier(number: float) -> str:
    return wording.rounded_text(number, up=False, digits=4)


def _print_division(plan: PlanRecord, console: Console) -> None:
    """How the budget is divided among the releases, and what the noise in each sum over users is."""
    if not plan.division:
        return
    table = Table("release", "times", "noise in the sum", "share of what they get", box=None, pad_edge=False)
    for row in plan.division:
        noise = f"{wording.metric_text(row.noise_in_the_sum, 2)} users"
        table.add_row(row.release, str(row.times), noise, wording.percent_text(row.share, 0))
    console.print(table)
    console.print(
        f"[dim]The shares follow from {wording.count_text(plan.data.users)} users, epsilon, and who adds the noise.[/]"
    )


def _print_claims(plan: PlanRecord, console: Console) -> None:
    table = Table("against", "protected", "epsilon", "delta", "unit, relation", box=None, pad_edge=False)
    rows = protection.claim_rows(plan)
    for claim, row in zip(plan.claims, rows, strict=True):
        verdict = f"[{'green' if row.holds else 'red'}]{row.verdict}[/]"
        epsilon = f"({wording.epsilon_text(claim.epsilon)})" if row.note else row.epsilon
        table.add_row(row.who, verdict, epsilon, row.delta, row.unit)
    console.print(table)
    if any(row.note for row in rows):
        console.print("[dim]In parentheses: by arithmetic, not claimed.[/]")
    for claim in plan.claims:
        if claim.reason:
            console.print(f"[dim]{claim.who}:[/] {claim.reason}")


def _print_knobs(plan: PlanRecord | RefusedPlan, multiplier: str, ratio: str, console: Console) -> None:
    if not plan.knobs:
        return
    table = Table("if you changed", "noise multiplier", "noise in the mean", box=None, pad_edge=False)
    table.add_row("nothing", multiplier, ratio)
    for row in plan.knobs:
        if row.noise_multiplier is None:
            table.add_row(row.knob, "refused", row.why_not)
        else:
            found = row.noise_in_the_mean
            changed = "-" if found is None else f"x {wording.metric_text(found, 2)}"
            table.add_row(row.knob, _multiplier(row.noise_multiplier), changed)
    console.print(table)
