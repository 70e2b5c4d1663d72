"""The card of an exported model: what it is, how it came about, what it promises, and the code that uses it.

Every number is taken from the run's own reports (`release.json`; `run.json` where nothing is claimed), and none is computed
here. A run that claims privacy shows no exact metric: they are not part of what was accounted for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from server.reporting.records import ReleaseRecord, RunRecord
from shared import wording
from shared.config import RunConfig
from shared.model.backbone import DEFAULT_BACKBONE

_DEFAULT_ON_THE_HUB = "sentence-transformers/all-MiniLM-L6-v2"
# What runs is a test's business: it executes this block without Tacit and compares the scores.
_CODE = '''import json
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import AutoModel

folder = Path(".")  # where this card is
with safe_open(folder / "recommender.safetensors", "pt") as file:
    settings = json.loads(file.metadata()["settings"])
    part = {{name: file.get_tensor(name) for name in file.keys()}}
transformer = AutoModel.from_pretrained(folder{loading}).eval()
items = json.loads((folder / "items.json").read_text(encoding="utf-8"))
row_of = {{item: row for row, item in enumerate(items["ids"])}}


def recent_sum(name, rows, items, decay):
    """The last items' rows of a table, the newer the heavier."""
    recent = rows.flip(0)[:items]
    return ((decay ** torch.arange(len(recent))).unsqueeze(1) * part[name][recent]).sum(dim=0)


@torch.no_grad()
def score(history):
    """A score for every item of items.json after a history of item ids, the oldest first."""
    weights = settings["weights"]
    prior = weights["prior"] * part["log_prior"]
    rows = [row_of[item] for item in history][-settings["max_history_length"] :]
    if not rows:
        return prior
    rows = torch.tensor(rows)
    hidden = transformer(inputs_embeds=part["item_table"][rows].unsqueeze(0)).last_hidden_state[0, -1]
    learned = part["content"] @ (part["output_map"] @ hidden)
    if "head_map" in part:  # factors of every item's own
        learned = learned + part["head_map"] @ hidden
    text = recent_sum("centered_texts", rows, settings["text_similarity_items"], settings["text_similarity_decay"])
    total = weights["adapter"] * learned + prior
    total = total + weights["text"] * (part["centered_texts"] @ torch.nn.functional.normalize(text, dim=0))
    if "pair_factors" in part:  # pairs of items
        total = total + weights["pairs"] * (part["pair_factors"] @ recent_sum("pair_factors", rows, **settings["pairs"]))
    if len(part.get("transition", ())):  # from the last items to the next one
        last = torch.nn.functional.normalize(recent_sum("directions", rows, **settings["transitions"]), dim=0)
        total = total + weights["transitions"] * (part["directions"] @ (last @ part["transition"]))
    return total


history = items["ids"][:3]
for row in score(history).argsort(descending=True)[:10].tolist():
    print(items["ids"][row], items["texts"][row])
'''


@dataclass(frozen=True)
class CardFacts:
    """What a card is written from.

    Attributes:
        config: The run.
        release: Its release report.
        record: Its research record; None where there is none.
        rank: What the products were cut to for the export; None where they were not.
        truncation_error: The share of their Frobenius norm that this cut off.
        difference: Largest difference between the transformer's outputs in the run and in the export.
        pooled: Whether `AutoModel.from_pretrained` needs no word about a pooling layer.
    """

    config: RunConfig
    release: ReleaseRecord
    record: RunRecord | None
    rank: int | None
    truncation_error: float
    difference: float
    pooled: bool


def model_card(facts: CardFacts) -> str:
    """The card, Markdown with YAML in front, as the hub reads it."""
    sections = [_what_it_is(facts), _use(facts), _training(facts), _privacy(facts), _metrics(facts)]
    text = "\n".join("\n".join(lines) + "\n" for lines in map(list, sections))
    return str(ModelCard(f"---\n{_metadata(facts).to_yaml()}\n---\n\n{text}"))


def _metadata(facts: CardFacts) -> ModelCardData:
    """What the hub sorts models by; nothing of it is looked up or validated over a network."""
    backbone = facts.config.model.backbone
    default = backbone == DEFAULT_BACKBONE
    # A local directory is nobody else's name.
    elsewhere = None if Path(backbone).exists() else backbone
    tags = ["recommender-system", "sequential-recommendation", "federated-learning", "lora", "tacit"]
    return ModelCardData(
        base_model=_DEFAULT_ON_THE_HUB if default else elsewhere,
        library_name="transformers",
        license="apache-2.0" if default else "other",
        tags=[*tags, *(["differential-privacy"] if facts.release.is_private else [])],
    )


def _what_it_is(facts: CardFacts) -> Iterator[str]:
    identity = facts.release.identity
    yield f"# {facts.config.run.name or 'A sequential recommender'}"
    yield ""
    yield (
        "A recommender that reads a history of items, one token an item, through a causal transformer and scores every item "
        "of its catalog. The transformer is pretrained on text and frozen; low-rank changes (LoRA) were learned on users' "
        "histories in a federation and are merged into the weights here."
    )
    yield ""
    yield f"* Backbone: {Path(facts.config.model.backbone).name}, {identity['layers']} layers kept, causal attention,"
    yield f"  weights with SHA-256 `{identity['backbone_digest']}`."
    yield f"* Catalog: SHA-256 `{identity['catalog_digest']}`; ids and texts are in `items.json`."
    if facts.rank is not None:
        yield (
            f"* Every learned change was cut to rank {facts.rank} for this export; that left out "
            f"{facts.truncation_error:.2%} of their Frobenius norm."
        )
    if facts.config.model.weights != "float32":
        yield (
            f"* It was trained over weights kept as {facts.config.model.weights}; here they are whole again, and the "
            f"transformer's outputs differ by up to {facts.difference:.2g}."
        )


def _use(facts: CardFacts) -> Iterator[str]:
    yield "## Use"
    yield ""
    yield "With `torch`, `transformers` and `safetensors`, in the folder of this card:"
    yield ""
    yield "```python"
    yield _CODE.format(loading="" if facts.pooled else ", add_pooling_layer=False").rstrip()
    yield "```"
    yield ""
    yield "Leave out of the list what the history holds already."


def _training(facts: CardFacts) -> Iterator[str]:
    config, used = facts.config, facts.release.mechanism
    rounds = facts.release.identity["round_number"]
    kind = "B alone, A frozen at its public initialization" if config.freezes_a else "both factors A and B"
    kinds = {"mean": "mean", "median": "coordinate median", "trimmed-mean": "trimmed mean", "multi-krum": "Multi-Krum mean"}
    mean = f"{kinds[config.server.rule]} of {'the products BA' if config.adapter.aggregates_products else 'the updates'}"
    yield "## Training"
    yield ""
    if not used.rounds:
        yield (
            f"None: made from statistics over {used.clients} clients with {used.population} users "
            f"({', '.join(one.name for one in facts.release.releases) or 'none released'})."
        )
        return
    yield (
        f"Federated over {used.clients} clients with {used.population} users in {rounds} rounds of "
        f"{used.steps_per_round} local steps. LoRA trained {kind}; the server took the {mean}"
        f"{', and what the rank could not hold is in the weights' if config.adapter.aggregation == 'residual' else ''}."
    )


def _privacy(facts: CardFacts) -> Iterator[str]:
    release, own = facts.release, facts.release.own
    yield "## Privacy"
    yield ""
    if own is None:
        yield f"**NOT PRIVATE.** No claim is made: {release.reason_why_not}."
        yield "Treat the weights like the data they were trained on."
    else:
        if release.not_kept:
            yield f"**{release.not_kept}**"
            yield ""
        promised = "Promised to" if own.protected else "Not promised, and computed for"
        yield f"* {promised}: one {own.unit} ({own.relation})."
        yield f"* Against: {own.who}."
        bound = f"epsilon = {wording.epsilon_text(own.epsilon)}, delta = {wording.delta_text(own.delta)}"
        yield f"* Bound: {bound}, for {own.scope}."
        yield f"* In words: {own.statement}"
        if before := release.continues:
            yield (
                f"* It continues the model with the manifest {before.manifest_digest[:12]}, which claimed epsilon = "
                f"{wording.epsilon_text(before.epsilon)}; this run alone has epsilon = "
                f"{wording.epsilon_text(release.epsilon_of_this_run)}, the bound is for all."
            )
        limits = [row.text for row in release.assumptions if not row.holds and not row.voids]
        yield from (f"* A stated limit, because this does not hold: {text}." for text in limits)
        yield from (f"* Warning: {text}" for text in release.warnings)
        yield ""
        yield "Against others:"
        yield ""
        yield from (f"* {claim.who}: {claim.statement}" for claim in release.claims if claim is not own)
    yield ""
    yield "Not protected:"
    yield ""
    yield from (f"* {text}" for text in release.not_protected)


def _metrics(facts: CardFacts) -> Iterator[str]:
    release, k = facts.release, facts.release.k
    yield "## Metrics"
    yield ""
    if release.is_private:
        rows = [row for row in release.metrics if row.target == "test" and row.ndcg is not None]
        if not rows:
            yield "None: no metrics were released, or too few users stood behind them."
            return
        noise = wording.metric_text(rows[-1].noise_half_width)
        yield f"Noised and in the account above (the whole catalog is ranked; 95 % of the noise within {noise}):"
        yield ""
        yield "| metric | test |"
        yield "|---|---|"
        yield f"| HR@{k} | {wording.metric_text(rows[-1].hr)} |"
        yield f"| NDCG@{k} | {wording.metric_text(rows[-1].ndcg)} |"
        return
    exact = facts.record.metrics.get("test") if facts.record else None
    if not exact:
        yield "None were measured."
        return
    yield "**NOT PRIVATE**: exact, computed from all users (the whole catalog is ranked; 95 % intervals over users)."
    yield ""
    yield "| metric | test | interval |"
    yield "|---|---|---|"
    for name in (f"hr@{k}", f"ndcg@{k}", f"mrr@{k}"):
        value = exact[name]
        interval = "" if value.low is None else f"{wording.metric_text(value.low)} to {wording.metric_text(value.high)}"
        yield f"| {name.upper()} | {wording.metric_text(value.mean)} | {interval} |"
