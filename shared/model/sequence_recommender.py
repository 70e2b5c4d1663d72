"""The recommender: a history of items (B, L) in, a score for every item (B, L, I) out.

    item_embedding (frozen texts) -> input_projection (frozen identity) -> frozen causal transformer -> h
    content path:        output_projection(h) (frozen zeros) times whitened item texts
    collaborative path:  item_head(h) (frozen zeros)
    untrained:           similarity to the last items' texts + popularity prior
    statistics:          pairs of items, transitions between directions of items (`shared/model/statistics.py`)
    scores = the sum of all

Everything trainable is LoRA on a frozen linear layer (`shared/model/adapter.py`), so one file in peft's format and one
prior tensor hold all that was learned, and every per-user gradient has the same closed form.

Why both trained paths start at zero rather than at the text matrix: before any training the model then *is* the free
baseline "text similarity + popularity", and all that the adapter adds is judged against it. Why there are two: the content
path chooses a direction among the texts with a few thousand numbers, whatever the catalog's size, and works for items never
seen; the item head gives each item factors of its own. Under noise few dimensions count, without noise the factors do.

Texts are centered before they are compared: sentence vectors share a large common component that says nothing
about one item. They are kept beside the embeddings, 1.5 GB for a million items: computing a similarity from the raw vector,
the mean and a norm is as fast, but takes the difference of two large numbers, which bfloat16 does not have the digits for.

Whatever has a row an item is made and multiplied a block of items at a time, and a zero weight takes no memory, so that the
largest temporary does not grow with the catalog. What never lives here: data access, privacy, federation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shared.config import ModelSection
from shared.errors import ConfigError, UnsupportedMechanism
from shared.model.backbone import Backbone
from shared.model.statistics import NUM_WEIGHTS, PAIR_DECAY, PAIR_ITEMS, TRANSITION_DECAY, TRANSITION_ITEMS, Statistics

# 64 MB of similarities between texts.
MOST_PAIRED_ITEMS = 4096
# Items that are scored, centered or whitened at once; 200 MB of vectors in double precision.
_BLOCK = 65_536


class SequenceRecommender(nn.Module):
    """Scores every item after every position of a history.

    Args:
        backbone: Frozen causal transformer of width H.
        item_vectors: (I, D) float32, one vector an item (`shared/data/item_vectors.py`), rows of norm 1. (public)
        config: Weights of the untrained signals, history length.
        num_new_items: How many of the last rows came after training. Means and directions are taken over the others, so that
            what was learned means the same for a larger catalog.

    Raises:
        ConfigError: If the history is longer than the backbone's position embeddings, or D differs from H.
    """

    log_prior: Tensor
    centered_texts: Tensor
    text_pairs: Tensor | None
    content: Tensor
    pair_factors: Tensor
    directions: Tensor
    transition: Tensor

    def __init__(
        self, backbone: Backbone, item_vectors: NDArray[np.float32], config: ModelSection, *, num_new_items: int = 0
    ) -> None:
        super().__init__()
        if config.max_history_length > backbone.max_positions:
            raise ConfigError(
                f"Expected model.max_history_length <= {backbone.max_positions}, the positions of the backbone, got "
                f"model.max_history_length={config.max_history_length}. Use a shorter history."
            )
        num_items, width = item_vectors.shape
        if width != backbone.hidden_size:
            raise ConfigError(
                f"Expected item vectors of the backbone's width {backbone.hidden_size}, got width={width}. "
                "Encode the texts with the same backbone."
            )
        vectors = torch.from_numpy(np.ascontiguousarray(item_vectors))
        self.num_items = num_items
        self.config = config
        self.item_embedding = nn.Embedding(num_items, width, _weight=vectors)
        self.input_projection = _frozen_linear(torch.eye(width))
        self.transformer = backbone.transformer
        known = num_items - num_new_items
        content = _whitened(vectors, config.content_dimensions, known=known)
        self.output_projection = ZeroLinear(width, content.shape[1])
        self.item_head = ZeroLinear(width, num_items)
        centered = _centered(vectors, vectors[:known].mean(dim=0))
        self.register_buffer("centered_texts", centered, persistent=False)
        pairs = centered @ centered.T if num_items <= MOST_PAIRED_ITEMS else None
        self.register_buffer("text_pairs", pairs, persistent=False)
        self.register_buffer("content", content, persistent=False)
        self.register_buffer("log_prior", torch.zeros(num_items), persistent=False)
        self.statistics: Statistics | None = None
        self.register_buffer("pair_factors", torch.zeros(num_items, 0), persistent=False)
        self.register_buffer("directions", torch.zeros(num_items, 0), persistent=False)
        self.register_buffer("transition", torch.zeros(0, 0), persistent=False)
        self._set_untrained_weights()
        self.requires_grad_(False)

    def _set_untrained_weights(self) -> None:
        """What each score counts where nothing was learned about that."""
        self.text_weight, self.popularity_weight = self.config.text_similarity_weight, self.config.popularity_weight
        self.pairs_weight = self.transitions_weight = self.adapter_weight = 1.0

    def set_log_prior(self, log_prior: NDArray[np.float32]) -> None:
        """Sets the popularity prior, (I,) float32 log-probabilities. (public once released with its noise)"""
        self.log_prior.copy_(torch.from_numpy(log_prior))

    def set_statistics(self, statistics: Statistics | None) -> None:
        """Sets what statistics gave, and all weights; None: nothing, and the configuration's weights. (public)"""
        self.statistics = statistics
        items = self.num_items
        self._set_untrained_weights()
        device = self.log_prior.device
        self.pair_factors = torch.zeros(items, 0, device=device)
        self.directions = torch.zeros(items, 0, device=device)
        self.transition = torch.zeros(0, 0, device=device)
        if statistics is None:
            return
        weights: list[float] = statistics.weights.tolist()
        self.text_weight, self.popularity_weight, self.pairs_weight, self.transitions_weight, self.adapter_weight = weights
        self.pair_factors = torch.from_numpy(statistics.factors).to(device)
        self.transition = torch.from_numpy(statistics.transition).to(device)
        if len(self.transition):
            self.directions = self.directions_of(len(self.transition) - statistics.directions.shape[1])

    def directions_of(self, text_dimensions: int) -> Tensor:
        """What transitions are between: that many directions of every item's text, then those of its factors; (I, D)."""
        texts = self.content[:, :text_dimensions]
        if self.statistics is None or not self.statistics.directions.shape[1]:
            return texts
        return torch.cat([texts, torch.from_numpy(self.statistics.directions).to(texts)], dim=1)

    def forward(self, items: Tensor) -> Tensor:
        """Scores of the next item after every position.

        Args:
            items: (B, L) int64 catalog rows, padded at the end with any valid row: under a causal mask what
                follows a position cannot reach it. (private)

        Returns:
            (B, L, I) float32.
        """
        return self.scores_after(self.hidden(items), items)

    def scores_after(self, hidden: Tensor, items: Tensor) -> Tensor:
        """What `forward` gives, from the transformer's output (B, L, H) for the same items."""
        return self._scores(hidden, self._weighted_similarities(items) + self._statistic_scores(items))

    @torch.no_grad()
    def encode_last(self, items: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The transformer's output (B, H) and the sum of the recent texts (B, D) at the last real position."""
        users = torch.arange(len(items), device=items.device)
        return self.hidden(items)[users, lengths - 1], self.recent_sum(items, lengths)

    @torch.no_grad()
    def recent_sum(self, items: Tensor, lengths: Tensor) -> Tensor:
        """The sum of the recent texts (B, D) at the last real position."""
        return self._last_sums(self.centered_texts, items, lengths, **self._text_window)

    @torch.no_grad()
    def score_encoded(self, hidden: Tensor | None, recent: Tensor, items: Tensor, lengths: Tensor) -> Tensor:
        """Scores (B, I) from what `encode_last` gave for the same items; beside them there are blocks alone.

        Args:
            hidden: (B, H), or None where the adapter adds nothing. (private)
            recent: (B, D). (private)
            items: (B, L) int64. (private)
            lengths: (B,) int64. (private)
        """
        scores = self.log_prior.new_empty((len(recent), self.num_items))
        weights = self.weights
        for block, parts in self._parts(hidden, recent, items, lengths):
            text, prior, *others = parts
            total = weights[0] * text + weights[1] * prior
            for weight, part in zip(weights[2:], others, strict=True):
                if part is not None:
                    total = total + weight * part
            scores[:, block] = total
        return scores

    @torch.no_grad()
    def score_parts(self, hidden: Tensor | None, recent: Tensor, items: Tensor, lengths: Tensor) -> Tensor:
        """What `score_encoded` adds up, before its weights: text, prior, pairs, transitions, adapter; (5, B, I)."""
        found = self.log_prior.new_zeros((NUM_WEIGHTS, len(recent), self.num_items))
        for block, parts in self._parts(hidden, recent, items, lengths):
            for number, part in enumerate(parts):
                if part is not None:
                    found[number, :, block] = part
        return found

    @property
    def weights(self) -> tuple[float, ...]:
        """Of text similarity, prior, pairs, transitions and adapter."""
        return self.text_weight, self.popularity_weight, self.pairs_weight, self.transitions_weight, self.adapter_weight

    def _parts(
        self, hidden: Tensor | None, recent: Tensor, items: Tensor, lengths: Tensor
    ) -> Iterator[tuple[slice, tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]]]:
        """The five scores of a block of items after another; None where a score is zero."""
        pairs = self._last_sums(self.pair_factors, items, lengths, steps=PAIR_ITEMS, decay=PAIR_DECAY)
        mapped = self._mapped(
            self._last_sums(self.directions, items, lengths, steps=TRANSITION_ITEMS, decay=TRANSITION_DECAY)
        )
        texts = self._last_similarities(recent, items, lengths)
        projected = None if hidden is None else self.output_projection(hidden)
        factors = self.item_head(hidden) if hidden is not None and self.has_item_factors else None
        for block in _blocks(self.num_items):
            learned = None if projected is None else projected @ self.content[block].T
            yield (
                block,
                (
                    texts(block),
                    self.log_prior[block].expand(len(recent), -1),
                    pairs @ self.pair_factors[block].T if pairs.shape[1] else None,
                    mapped @ self.directions[block].T if mapped is not None else None,
                    learned if factors is None or learned is None else factors[:, block] + learned,
                ),
            )

    def sampled_scores_after(self, hidden: Tensor, items: Tensor, targets: Tensor, negatives: Tensor) -> Tensor:
        """Scores of a few items, with nothing that grows with the catalog.

        Args:
            hidden: (B, L, H), the transformer's output for `items`. (private)
            items: (B, L) int64. (private)
            targets: (B, L) int64, an item of its own for every position. (private)
            negatives: (N,) int64, the same items for all positions. (public)

        Returns:
            (B, L, 1 + N): what `scores_after` gives for the position's target, and then for the negatives.

        Raises:
            UnsupportedMechanism: If items have factors of their own: their gradient has a row for every item.
        """
        if self.has_item_factors:
            raise UnsupportedMechanism(
                "Expected adapter.head_rank = 0 for sampled negatives, got an item head. Every user's gradient of it has "
                "a row for every item; set training.negatives = 0, or leave the head out."
            )
        projected = self.output_projection(hidden)
        sums = self._recent_sums(self.centered_texts, items, **self._text_window)
        recent = self.text_weight * nn.functional.normalize(sums, dim=-1)
        pairs = self.pairs_weight * self._recent_sums(self.pair_factors, items, steps=PAIR_ITEMS, decay=PAIR_DECAY)
        mapped = self._mapped(self._recent_sums(self.directions, items, steps=TRANSITION_ITEMS, decay=TRANSITION_DECAY))
        prior = self.popularity_weight * self.log_prior
        parts = [(self.adapter_weight * projected, self.content), (recent, self.centered_texts), (pairs, self.pair_factors)]
        if mapped is not None:
            parts.append((self.transitions_weight * mapped, self.directions))
        of_targets = sum((left * right[targets]).sum(dim=-1) for left, right in parts)
        of_negatives = sum(left @ right[negatives].T for left, right in parts)
        return torch.cat([(of_targets + prior[targets]).unsqueeze(-1), of_negatives + prior[negatives]], dim=-1)

    @property
    def has_item_factors(self) -> bool:
        """Whether the item head says anything: whether it has LoRA, or a weight from the aggregation."""
        return not (isinstance(self.item_head, ZeroLinear) and self.item_head.is_zero)

    def hidden(self, items: Tensor) -> Tensor:
        """The transformer's output (B, L, H)."""
        embedded = self.input_projection(self.item_embedding(items))
        hidden: Tensor = self.transformer(inputs_embeds=embedded).last_hidden_state
        return hidden

    def _scores(self, hidden: Tensor, weighted_similarity: Tensor) -> Tensor:
        learned: Tensor = self.output_projection(hidden) @ self.content.T
        if self.has_item_factors:
            learned = self.item_head(hidden) + learned
        return self.adapter_weight * learned + weighted_similarity + self.popularity_weight * self.log_prior

    @property
    def _text_window(self) -> dict[str, Any]:
        return {"steps": self.config.text_similarity_items, "decay": self.config.text_similarity_decay}

    def _mapped(self, sums: Tensor) -> Tensor | None:
        """The directions of sums (..., D) through the transition; None where there is none."""
        if not len(self.transition):
            return None
        directions = nn.functional.normalize(sums, dim=-1)
        if directions.dim() > 2:
            return directions @ self.transition
        # At last positions alone; MKL would round a narrow product by where in the batch a row stands.
        return (directions.unsqueeze(-1) * self.transition).sum(dim=-2)

    def _statistic_scores(self, items: Tensor) -> Tensor | float:
        """What pairs and transitions say at every position, (B, L, I); 0 where there are none."""
        found: Tensor | float = 0.0
        if self.pair_factors.shape[1]:
            pairs = self._recent_sums(self.pair_factors, items, steps=PAIR_ITEMS, decay=PAIR_DECAY)
            found = self.pairs_weight * (pairs @ self.pair_factors.T)
        mapped = self._mapped(self._recent_sums(self.directions, items, steps=TRANSITION_ITEMS, decay=TRANSITION_DECAY))
        if mapped is not None:
            found = found + self.transitions_weight * (mapped @ self.directions.T)
        return found

    def _last_sums(self, table: Tensor, items: Tensor, lengths: Tensor, *, steps: int, decay: float) -> Tensor:
        """`_recent_sums` at the last real position alone, without the others; (B, columns)."""
        if not table.shape[1]:  # a table that says nothing; `embedding_bag` refuses it
            return table.new_zeros(len(items), 0)
        chosen, weights = self._last_items(items, lengths, steps=steps, decay=decay)
        return nn.functional.embedding_bag(chosen, table, per_sample_weights=weights, mode="sum")

    def _last_items(self, items: Tensor, lengths: Tensor, *, steps: int, decay: float) -> tuple[Tensor, Tensor]:
        """The last items, the latest first, and what each counts, both (B, steps); 0 where there is none."""
        steps_back = torch.arange(steps, device=items.device)
        places = lengths.unsqueeze(1) - 1 - steps_back
        chosen = items.gather(1, places.clamp(min=0).clamp(max=items.shape[1] - 1))
        return chosen, decay**steps_back * (places >= 0)

    def _last_similarities(self, recent: Tensor, items: Tensor, lengths: Tensor) -> Callable[[slice], Tensor]:
        """Similarity of a block of items to the recent texts, whose sum is `recent`; a function to (B, items).

        As in `_weighted_similarities`, rows of the table of all pairs of texts are added up where there is one.
        """
        if self.text_pairs is None:
            direction = nn.functional.normalize(recent, dim=-1)
            return lambda block: direction @ self.centered_texts[block].T
        chosen, weights = self._last_items(items, lengths, **self._text_window)
        norms = recent.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        found = nn.functional.embedding_bag(chosen, self.text_pairs, per_sample_weights=weights / norms, mode="sum")
        return lambda block: found[:, block]

    def _weighted_similarities(self, items: Tensor) -> Tensor:
        """Similarity of every item to the recent texts at every position, times its weight; (B, L, I).

        A sum of texts is as similar to an item as the sum of the texts' similarities, so where all pairs of texts fit memory
        five rows of their table are added up: a seventh of the time of the matrix product.
        """
        recent = self._recent_sums(self.centered_texts, items, **self._text_window)
        weight = self.text_weight
        if self.text_pairs is None:
            return weight * (nn.functional.normalize(recent, dim=-1) @ self.centered_texts.T)
        steps_back = torch.arange(min(self.config.text_similarity_items, items.shape[1]), device=items.device)
        places = torch.arange(items.shape[1], device=items.device).unsqueeze(1) - steps_back
        decay = self.config.text_similarity_decay**steps_back * (places >= 0)
        norms = recent.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        chosen = items[:, places.clamp(min=0)]
        similarity = nn.functional.embedding_bag(
            chosen.flatten(0, 1), self.text_pairs, per_sample_weights=(weight * decay / norms).flatten(0, 1), mode="sum"
        )
        return similarity.view(*items.shape, -1)

    def _recent_sums(self, table: Tensor, items: Tensor, *, steps: int, decay: float) -> Tensor:
        """Sum of the last items' rows of a table at every position, later ones heavier; (B, L, columns)."""
        rows = table[items]
        recent = rows.clone()
        for steps_back in range(1, min(steps, items.shape[1])):
            recent[:, steps_back:] += decay**steps_back * rows[:, :-steps_back]
        return recent


class ZeroLinear(nn.Linear):
    """A frozen linear layer whose weight is zero and is not multiplied: a place for LoRA to attach to.

    One number in memory stands for the whole weight, which for the head of a million items would take 1.5 GB.

    Attributes:
        is_zero: Whether that still holds; a residual of the aggregation (`shared/model/residual.py`) is put into the weight.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False, device="meta")
        self.weight = nn.Parameter(torch.zeros(1, 1).expand(out_features, in_features), requires_grad=False)
        self.is_zero = True

    def set_weight(self, weight: Tensor) -> None:
        """Takes a weight (out, in), which is kept where the zeros were."""
        self.weight = nn.Parameter(weight.to(self.weight), requires_grad=False)
        self.is_zero = False

    def _apply(self, fn: Any, recurse: bool = True) -> ZeroLinear:
        if not self.is_zero:
            super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
            return self
        # Moved as it is, an expanded tensor would arrive as large as it looks.
        self.weight.data = self.weight.data[:1, :1]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.weight.data = self.weight.data.expand(self.out_features, self.in_features)
        return self

    def forward(self, input: Tensor) -> Tensor:
        """Shape (..., out_features), zeros while the weight is zero."""
        if not self.is_zero:
            return super().forward(input)
        return input.new_zeros((*input.shape[:-1], self.out_features))


def _whitened(vectors: Tensor, dimensions: int, *, known: int) -> Tensor:
    """The leading principal directions of the first `known` items, each scaled to the same variance; (I, <= dimensions).

    Where their texts are all alike, as that of a single item is, there is one direction in which all are zero.

    In the raw texts a few directions (the topic) drown the many that tell items apart; after whitening each is as easy to
    ask for as any other, and fewer of them are needed.
    """
    mean = vectors[:known].mean(dim=0)
    # The covariance has as many rows as a text vector has numbers, however many items there are.
    covariance = torch.zeros(vectors.shape[1], vectors.shape[1], dtype=torch.float64)
    for block in _blocks(known):
        centered = (vectors[block] - mean).double()
        covariance += centered.T @ centered
    values, directions = torch.linalg.eigh(covariance)
    values, directions = values.flip(0), directions.flip(1)
    # Vectors have norm 1: what varies less than their last digit is rounding.
    rounding = known * torch.finfo(vectors.dtype).eps ** 2
    kept = min(dimensions, int((values > max(float(values[0]) * 1e-8, rounding)).sum()))
    if not kept:
        return vectors.new_zeros((len(vectors), 1))
    directions, scale = directions[:, :kept], values[:kept].sqrt()
    scores = vectors.new_empty((len(vectors), kept))
    largest = torch.zeros(kept, dtype=torch.float64)
    for block in _blocks(len(vectors)):
        found = (vectors[block] - mean).double() @ directions / scale
        old = found[: max(known - block.start, 0)]
        if len(old):
            extreme = old.gather(0, old.abs().argmax(dim=0, keepdim=True))[0]
            largest = torch.where(extreme.abs() > largest.abs(), extreme, largest)
        scores[block] = nn.functional.normalize(found, dim=1).float()
    # A direction has no sign of its own; a fixed one lets an adapter be read by another version of the linear algebra.
    return scores.mul_(largest.sign().float())


def _centered(vectors: Tensor, mean: Tensor) -> Tensor:
    """Directions from the mean, (I, D) float32; a row at the mean has none and is zero."""
    centered = torch.empty_like(vectors)
    rounding = 4 * torch.finfo(vectors.dtype).eps  # of vectors of norm 1, and of their mean
    for block in _blocks(len(vectors)):
        found = vectors[block] - mean
        apart = found.norm(dim=1, keepdim=True) > rounding
        centered[block] = nn.functional.normalize(found, dim=1) * apart
    return centered


def _blocks(rows: int) -> Iterator[slice]:
    """All rows, `_BLOCK` at a time."""
    return (slice(start, min(start + _BLOCK, rows)) for start in range(0, rows, _BLOCK))


def _frozen_linear(weight: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight = nn.Parameter(weight, requires_grad=False)
    return layer


def user_losses(scores: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy of the next item, averaged within each user, so that one user is one example.

    Guarantee:
        Entry b depends on row b alone. No negative is drawn from other users, which would couple them and break
        per-user clipping.

    Args:
        scores: (B, L, I) float32. (private)
        targets: (B, L) int64 catalog rows. (private)
        mask: (B, L) bool, True where there is a target. A row without any has loss 0. (private)

    Returns:
        (B,) float32, unit: nats.
    """
    per_position = nn.functional.cross_entropy(scores.flatten(0, 1), targets.flatten(), reduction="none")
    return _user_means(per_position.view_as(mask), mask)


def sampled_user_losses(scores: Tensor, targets: Tensor, mask: Tensor, *, negatives: Tensor, log_weights: Tensor) -> Tensor:
    """`user_losses` with the sum over the catalog estimated from the target and some public negatives.

    The estimate is exp(s_target) + the sum over negatives other than the target of weight times exp(s). Where the weights
    are one over how often each is expected to be drawn (log-q correction), its mean over the draws is the sum over the
    catalog, and its error falls as 1 / sqrt(number of draws).

    Guarantee:
        Entry b depends on row b and on public values alone.

    Args:
        scores: (B, L, 1 + N) float32, from `SequenceRecommender.sampled_scores_after`. (private)
        targets: (B, L) int64. (private)
        mask: (B, L) bool. (private)
        negatives: (N,) int64. (public)
        log_weights: (N,) float32. (public)

    Returns:
        (B,) float32, nats; never below 0.

    Source:
        Bengio and Senecal 2008, "Adaptive Importance Sampling to Accelerate Training of a Neural Probabilistic Language
        Model", section III; Jean et al. 2015, "On Using Very Large Target Vocabulary for NMT", section 3.1.
    """
    others = (scores[..., 1:] + log_weights).masked_fill(negatives == targets.unsqueeze(-1), -torch.inf)
    of_target = scores[..., :1]
    log_sum = torch.cat([of_target, others], dim=-1).logsumexp(dim=-1)
    return _user_means(log_sum - of_target.squeeze(-1), mask)


def _user_means(per_position: Tensor, mask: Tensor) -> Tensor:
    """Means over the positions that count, (B, L) -> (B,)."""
    weights = mask / mask.sum(dim=1, keepdim=True).clamp(min=1)
    return (per_position * weights).sum(dim=1)
