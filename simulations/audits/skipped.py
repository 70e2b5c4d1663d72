"""Attacks that a kind of run does not allow, each with the reason: an audit says what it did not try."""

from __future__ import annotations

from collections.abc import Iterator

from shared.audit.document import Skipped
from shared.config import RunConfig
from shared.privacy.plan import PrivacyPlan
from simulations.audits.local_steps import reads_steps_of, scores_steps
from simulations.audits.whole_updates import hides_participation, reads_rounds

_ROUNDS = "canaries in the training rounds"


def skipped_of(plan: PrivacyPlan, config: RunConfig) -> Iterator[Skipped]:
    """What is not tried on a run of this kind.

    Args:
        plan: The run's. (public)
        config: Of the run. (public)
    """
    if plan.rounds and plan.adds_noise:
        yield from _of_rounds(plan, config)
    if plan.masks_contributions:
        yield Skipped(
            attack="the masks of secure sums",
            reason="The twin adds contributions up in one process, without masks: their sum is the same. Noise, bound, sum "
            "and guesses are those of the sum; that masks hide single contributions rests on the protocol.",
        )
    if config.run.continues:
        yield Skipped(
            attack="releases of the runs before this one",
            reason="The twin repeats this run alone, and its canaries were in no earlier one. Claims are over all runs of "
            "the chain, so what is found here is held against more than it could reach: audit each run of the chain.",
        )


def _of_rounds(plan: PrivacyPlan, config: RunConfig) -> Iterator[Skipped]:
    if plan.mechanism.users_take_turns:
        yield Skipped(
            attack=_ROUNDS,
            reason="Noise is correlated over local steps, and a reply is the sum of several: from outside no step's noise "
            "can be told from what the next one takes back. Canaries trained like other users.",
        )
    elif scores_steps(plan):
        if not reads_steps_of(config.local_training()) or config.adapter.largest_ranks():
            yield Skipped(
                attack=_ROUNDS,
                reason="With an optimizer other than sgd, weight decay, history dropout or ranks that differ by "
                "client, replies are no sums of noised gradients of one size. They were not read.",
            )
            return
        yield Skipped(
            attack="guesses about canaries from the training rounds, in the sums",
            reason="What is released of a round is made of the silos' replies, which are read themselves: guesses in the "
            "replies rest on them too.",
        )
        yield Skipped(
            attack="the one-shot estimate from local steps",
            reason="Who was drawn in which step is secret. The estimate rests on the other releases; guesses weigh both.",
        )
    elif not reads_rounds(plan):
        yield Skipped(
            attack=_ROUNDS,
            reason="Under adaptive clipping the bound moves, and noise that is correlated over rounds is then no fixed "
            "combination of independent noise. Canaries trained like other users.",
        )
    elif plan.mechanism.clients_take_turns or hides_participation(plan):
        yield Skipped(
            attack="the one-shot estimate from the training rounds" + ("" if plan.min_separation else ", for outsiders"),
            reason="A client is in some of the rounds alone. The estimate rests on the other releases, and is below what an "
            "adversary finds who reads the rounds too; guesses rest on all of them.",
        )
