"""`tacit privacy plan` for people: the claim in a sentence, a line an adversary, what each knob would cost."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from server.reporting import protection, sentences


def print_plan(explained: dict[str, Any], console: Console) -> None:
    """Prints what `simulations.privacy_plan.explain` made."""
    if "refused" in explained:
        _print_knobs(explained, console)
        return
    data, mechanism = explained["data"], explained["mechanism"]
    console.print(
        f"[bold]{data['name']}[/]: {data['users']:,} users as {data['clients']:,} clients, {mechanism['rounds']} rounds, "
        f"unit {mechanism['unit']}, mechanism {mechanism['name']}"
    )
    if not explained["is_private"]:
        console.print(f"[yellow]NOT PRIVATE[/]: {explained['why_not']}.")
    else:
        if first := sentences.not_kept(explained):
            console.print(first, style="red", markup=False)
        _print_promise(explained, console)
    for warning in explained["warnings"]:
        console.print(f"[yellow]warning:[/] {warning}")
    _print_division(explained, console)
    _print_claims(explained, console)
    if explained["is_private"]:
        two = "A person with two accounts" if mechanism["unit"] == "user" else "Two windows of one history"
        console.print(
            f"{two}: epsilon {sentences.epsilon_text(explained['group']['epsilon'])} instead of "
            f"{sentences.epsilon_text(explained['epsilon'])}, at the same delta."
        )
    _print_knobs(explained, console)
    for row in explained["assumptions"]:
        if not row["holds"]:
            console.print(f"[yellow]does not hold{'' if row['voids'] else ' (a stated limit)'}:[/] {row['text']}")
    console.print("[bold]A client sends[/]")
    for sent in explained["sent"]:
        size = f", {sentences.bytes_text(sent['bytes'])}" if sent["bytes"] else ""
        console.print(f"  {sent['what']} ({sent['when']}{size}): {sent['how']}")
    console.print("[bold]Not protected[/]")
    for line in explained["not_protected"]:
        console.print(f"  {line}")


def _print_promise(explained: dict[str, Any], console: Console) -> None:
    noise, mechanism = explained["noise"], explained["mechanism"]
    console.print(protection.headline(explained).sentence, markup=False)
    if not mechanism["rounds"]:
        console.print(
            f"[bold]Noise[/]: added {noise['where'].partition(',')[0]}, to each release once; no rounds of training."
        )
        return
    console.print(
        f"[bold]Noise[/]: added {noise['where']}; multiplier {noise['noise_multiplier']:.3f} (standard deviation over the "
        f"clip norm {mechanism['l2_clip_norm']:g}), {noise['in_the_mean']:.3g} clip norms in each coordinate of a mean."
    )


def _print_division(explained: dict[str, Any], console: Console) -> None:
    """How the budget is divided among the releases, and what the noise in each sum over users is."""
    if not explained["division"]:
        return
    table = Table("release", "times", "noise in the sum", "share of what they get", box=None, pad_edge=False)
    for row in explained["division"]:
        times, noise = str(row["times"]), f"{row['noise_in_the_sum']:.2f} users"
        table.add_row(row["release"], times, noise, f"{100 * row['share']:.0f} %")
    console.print(table)
    users = explained["data"]["users"]
    console.print(
        f"[dim]The shares follow from {users:,} users, epsilon, and who adds the noise (README, 'Statistics first').[/]"
    )


def _print_claims(explained: dict[str, Any], console: Console) -> None:
    table = Table("against", "protected", "epsilon", "delta", "unit, relation", box=None, pad_edge=False)
    for claim, row in zip(explained["claims"], protection.claim_rows(explained), strict=True):
        epsilon = claim["epsilon"]
        table.add_row(
            claim["who"],
            f"[{'green' if row.holds else 'red'}]{row.verdict}[/]",
            sentences.epsilon_text(epsilon) if epsilon is not None else "-",
            sentences.delta_text(claim["delta"]) if epsilon is not None else "-",
            f"{claim['unit']}, {claim['relation']}",
        )
    console.print(table)
    for claim in explained["claims"]:
        console.print(f"[dim]{claim['who']}:[/] {claim['reason']}")


def _print_knobs(explained: dict[str, Any], console: Console) -> None:
    if not explained["knobs"]:
        return
    table = Table("if you changed", "noise multiplier", "noise in the mean", box=None, pad_edge=False)
    if "refused" in explained:
        table.add_row("nothing", "refused", "see below")
    else:
        table.add_row("nothing", f"{explained['noise']['noise_multiplier']:.3f}", "x 1.00")
    for row in explained["knobs"]:
        if row["noise_multiplier"] is None:
            table.add_row(row["knob"], "refused", row["why_not"])
        else:
            ratio = row["noise_in_the_mean"]
            table.add_row(row["knob"], f"{row['noise_multiplier']:.3f}", "-" if ratio is None else f"x {ratio:.2f}")
    console.print(table)
