"""The sections of a configuration: every key with its range, its default and what it means.

What never lives here: what two keys of different sections mean together (`checks.py`).
"""

from __future__ import annotations

import datetime
import math
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from shared.errors import ConfigError

Scalar = bool | int | float | str

# What is larger is a slip of the keyboard, and no machine has the memory for it.
_WIDEST = 65_536
_LARGEST = 10_000_000


def _whole_number_as_text(value: Any) -> Any:
    """A list of one rank is read as a number by TOML and by Flower."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


class Section(BaseModel):
    """Keys that belong together; frozen, and no other key is taken."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class RunSection(Section):
    """What the run is called, where it goes, and which randomness it uses."""

    name: str = Field("", description="Name of the run; empty takes the data set's name.")
    out: str = Field("", description="Output directory; empty makes runs/<time>-<name>.")
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(
        0,
        description="Fixes data, skew and initialization. Noise and sampling stay secret unless reproducible.",
    )
    reproducible: bool = Field(
        False, description="Derive noise and sampling from the seed too; the run is then not private."
    )
    resume: bool = Field(False, description="Go on from the last checkpoint in run.out.")
    continues: str = Field(
        "", description="Folder of a finished run whose released model and statistics this one starts from."
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where the model runs.")


class DataSection(Section):
    """Which interactions, how they are read and split."""

    path: str = Field("synthetic", description="A file, a folder, or 'synthetic' for the embedded set.")
    format: Literal[
        "auto",
        "recbole",
        "movielens",
        "amazon",
        "mind",
        "steam",
        "goodreads",
        "huggingface",
        "tabular",
        "synthetic",
    ] = Field("auto", description="Format of the files; auto looks at them.")
    columns: str = Field(
        "", description="Column map for CSV, Parquet and Hugging Face tables, e.g. 'user=uid,item=asin,timestamp=t'."
    )
    vectors: str = Field(
        "", description="Precomputed item vectors, e.g. 'image=images.npy,audio=audio.parquet', beside what the data hold."
    )
    order: Literal["time", "file"] = Field(
        "time", description="file: each user's rows stand in the order in which they happened; times are not read."
    )
    bad_rows: Literal["refuse", "drop"] = Field(
        "refuse", description="drop: leave rows out whose ids, time or value cannot be read, and count them."
    )
    split: Literal["leave-last-out", "global-temporal"] = Field(
        "leave-last-out", description="How validation and test targets are held out."
    )
    cut_offs: str = Field(
        "",
        description="Begin of validation and of test for global-temporal, e.g. '2016-01-01,2017-01-01' (UTC), or seconds "
        "since 1970; empty takes quantiles of all users' times, which a private run refuses.",
    )
    name: str = Field(
        "", description="Your name for the data, to which privacy ledgers are bound; empty: the name of the file or folder."
    )
    population: str = Field("", description="Folder written by 'tacit data partition' that clients open.")
    public_catalog: bool = Field(
        False, description="Declared by you: the items and their texts exist independently of these users."
    )

    def cut_off_seconds(self) -> tuple[int, int] | None:
        """`cut_offs` in seconds since 1970; None where none are declared.

        Raises:
            ConfigError: If they are not two times, the earlier one first.
        """
        if not self.cut_offs.strip():
            return None
        try:
            first, second = (_seconds(part.strip()) for part in self.cut_offs.split(","))
        except ValueError:
            first, second = 0, 0
        if not 0 <= first < second:
            raise ConfigError(
                f"Expected data.cut_offs to be two times, the earlier one first, got data.cut_offs={self.cut_offs}. Write "
                "e.g. 2016-01-01,2017-01-01, or seconds since 1970."
            )
        return first, second

    @property
    def cuts_at_quantiles(self) -> bool:
        """Whether the times of all users decide what is held out of each one's history."""
        return self.split == "global-temporal" and self.cut_off_seconds() is None

    @property
    def shaped_by_all(self) -> tuple[str, ...]:
        """Settings by which one user's data decide what another's training data are; a private run refuses any."""
        return ("data.split=global-temporal without data.cut_offs",) if self.cuts_at_quantiles else ()


class FederationSection(Section):
    """Who takes part and for how long."""

    rounds: Literal["auto"] | Annotated[int, Field(ge=0, le=100_000)] = Field(
        "auto",
        description="Rounds of training on top of the statistics; 0: none; auto: as many as pay for this population.",
    )
    clients: Annotated[int, Field(ge=0)] = Field(4, description="Number of silos; 0 makes every user a client.")
    sizes: Literal["equal", "power-law", "attribute"] = Field("equal", description="How users are spread over silos.")
    attribute: str = Field("", description="User attribute whose values become silos (sizes = attribute).")
    dirichlet_alpha: Annotated[float, Field(ge=0)] = Field(
        0.0, description="Dirichlet concentration of interests across silos: smaller is more skewed, 0 is off."
    )
    engine: Literal["auto", "cohort", "flower"] = Field(
        "auto",
        description="cohort: all clients of a round trained together in one process; flower: Flower's simulation engine on "
        "Ray, one machine or a cluster; auto: cohort where it can do what the run needs.",
    )
    minimum_clients: Annotated[int, Field(ge=0)] = Field(
        0,
        description="A round with fewer answers is dropped; 0: half of the clients, and with noise in shares as many as the "
        "noise is calibrated to.",
    )
    timeout_seconds: Annotated[float, Field(gt=0)] = Field(3600.0, description="Deadline of one round.")


class ModelSection(Section):
    """The frozen part of the recommender, and its two untrained signals."""

    backbone: str = Field("all-MiniLM-L6-v2", description="Bundled name, local directory or hub name.")
    layers: Annotated[int, Field(ge=0)] = Field(2, description="Transformer layers kept from the bottom; 0 = all.")
    max_history_length: Annotated[int, Field(ge=2, le=4096)] = Field(
        50, description="Most recent interactions the model reads."
    )
    text_similarity_weight: float = Field(4.0, description="Weight of the similarity to the last items' texts.")
    text_similarity_decay: Annotated[float, Field(gt=0, le=1)] = Field(
        0.85, description="How much less each item further back counts in it."
    )
    text_similarity_items: Annotated[int, Field(ge=1, le=4096)] = Field(5, description="How many last items it looks at.")
    content_dimensions: Annotated[int, Field(ge=1)] = Field(
        128, description="Whitened text directions that the content path chooses among."
    )
    popularity_weight: float = Field(1.0, description="Weight of the log popularity prior.")
    modalities: str = Field(
        "auto",
        description="What of the catalog makes an item's vector: comma-separated names, or auto for text and vectors.",
    )
    modality_weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        0.5, description="Length of every further modality in an item's vector, beside a text of length 1."
    )
    weights: Literal["float32", "bfloat16", "int8", "int4"] = Field(
        "float32", description="How the frozen transformer is kept in memory; int8 and int4 need bitsandbytes."
    )


class AdapterSection(Section):
    """What is trained, all of it LoRA. A rank of 0 leaves that part frozen."""

    kind: Literal["auto", "lora", "ffa"] = Field(
        "auto", description="lora trains A and B; ffa freezes A. auto: ffa under privacy, lora otherwise."
    )
    rank: Annotated[int, Field(ge=0, le=_WIDEST)] = Field(0, description="Rank in the transformer's linear layers.")
    input_rank: Annotated[int, Field(ge=0, le=_WIDEST)] = Field(
        0, description="Rank of the projection before the transformer."
    )
    output_rank: Annotated[int, Field(ge=0, le=_WIDEST)] = Field(32, description="Rank of the content path behind it.")
    head_rank: Annotated[int, Field(ge=0, le=_WIDEST)] = Field(0, description="Rank of the item head, I x rank numbers.")
    item_rank: Annotated[int, Field(ge=0, le=_WIDEST)] = Field(
        0, description="Rank of item factors at the input (only without privacy)."
    )
    scaling: Annotated[float, Field(gt=0)] = Field(1.0, description="lora_alpha / rank.")
    ranks: str = Field(
        "",
        description="Ranks by module, the first pattern that fits counts: 'layer.0=0,query|value=8' (regular expressions "
        "without commas, searched in the module's name, item_head among them); the other keys hold for the rest.",
    )
    client_ranks: Annotated[str, BeforeValidator(_whole_number_as_text)] = Field(
        "",
        description="Largest rank of each client in turn, e.g. '8,8,4': a small node trains and sends a prefix of every "
        "rank. A device's own limit is `rank` in its node configuration.",
    )
    aggregation: Literal["auto", "mean", "stack", "residual"] = Field(
        "auto",
        description="mean: of the tensors; stack: of the products BA, cut to the rank again; residual: the same, and what "
        "is cut stays in the frozen weights, as large as they are when it travels. auto: mean.",
    )

    def rank_patterns(self) -> list[tuple[str, int]]:
        """`ranks` as pairs of a regular expression and a rank, in their order.

        Raises:
            ConfigError: If a part is not PATTERN=RANK.
        """
        return [_rank_pattern(part.strip()) for part in self.ranks.split(",") if part.strip()]

    def largest_ranks(self) -> list[int]:
        """`client_ranks` as numbers; empty where every client has the whole rank.

        Raises:
            ConfigError: If one is not a whole number >= 1.
        """
        parts = [part.strip() for part in self.client_ranks.split(",") if part.strip()]
        if not all(part.isascii() and part.isdigit() and int(part) >= 1 for part in parts):
            raise ConfigError(
                f"Expected adapter.client_ranks to be whole numbers >= 1, got adapter.client_ranks={self.client_ranks}. "
                "Write e.g. 8,8,4."
            )
        return [int(part) for part in parts]

    @property
    def aggregates_products(self) -> bool:
        """Whether the server takes the mean of the clients' products BA rather than of their tensors."""
        return self.aggregation in ("stack", "residual")


class TrainingSection(Section):
    """One client's local work in one round."""

    local_steps: Annotated[int, Field(ge=1, le=100_000)] = Field(4, description="Optimizer steps a client and round.")
    sampling_rate: Annotated[float, Field(gt=0, le=1)] = Field(
        0.12, description="Probability that a user takes part in one local step (Poisson)."
    )
    gradients: Literal["closed-form", "opacus"] = Field(
        "closed-form", description="How per-user gradients are computed: LoRA's closed form, or Opacus' hooks."
    )
    optimizer: Literal["auto", "adam", "sgd"] = Field(
        "auto", description="Local optimizer, fresh every round. auto: sgd under privacy, adam otherwise."
    )
    learning_rate: Annotated[float, Field(ge=0)] = Field(
        0.0,
        description="Local learning rate; 0 takes 20 / l2_clip_norm for noised steps, 1 for updates that are clipped "
        "whole (sgd both), 0.01 otherwise.",
    )
    schedule: Literal["constant", "cosine"] = Field(
        "cosine", description="How the local learning rate falls over the rounds (cosine: to a tenth)."
    )
    weight_decay: Annotated[float, Field(ge=0)] = Field(0.0, description="Decoupled weight decay.")
    history_dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="Largest share of a history dropped.")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="Arithmetic of the forward pass; auto: bfloat16 on CUDA. Clipping is always float32.",
    )
    random_windows: bool = Field(True, description="Train on a random window of a long history, not on its end.")
    negatives: Annotated[int, Field(ge=0, le=_LARGEST)] = Field(
        0, description="Public negatives of a sampled softmax in each step, for large catalogs; 0 scores every item."
    )
    gradient_checkpointing: bool = Field(
        False, description="Compute the transformer's activations again in the backward pass: less memory, more time."
    )
    physical_batch_size: Annotated[int, Field(ge=1, le=_LARGEST)] = Field(
        64,
        description="Histories of full length in one forward pass, more where they are shorter; a memory limit without "
        "effect on the result.",
    )


class ServerSection(Section):
    """What the server does with the mean update."""

    optimizer: Literal["sgd", "adam"] = Field("sgd", description="Server optimizer.")
    learning_rate: Annotated[float, Field(ge=0)] = Field(
        0.0,
        description="Server learning rate; 0 takes 0.01 for adam; for sgd 20 / l2_clip_norm where whole updates are "
        "clipped, 1 otherwise.",
    )
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="Momentum of SGD.")
    rule: Literal["mean", "median", "trimmed-mean", "multi-krum"] = Field(
        "mean", description="How silos' replies become one."
    )
    faulty_clients: Annotated[int, Field(ge=1)] = Field(1, description="Silos that a rule other than mean withstands.")


class PrivacySection(Section):
    """What is promised to one user, for `federation.rounds` rounds. `shared/privacy/plan.py` turns this into noise."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=True)

    unit: Literal["user", "window", "interaction"] = Field(
        "user", description="What one unit of privacy is: a user's whole history, or a window of it (for comparison)."
    )
    adversary: Literal["auto", "outsider", "server", "active-server", "colluding-clients"] = Field(
        "auto", description="Whom epsilon is promised against; auto: the strongest that the run withstands."
    )
    mechanism: Literal["auto", "dp-sgd", "dp-ftrl-silo", "central", "dp-ftrl-central", "distributed"] = Field(
        "auto",
        description="Where noise is added; auto: dp-sgd inside silos; where every user is a client distributed, or central "
        "where secure sums cannot be formed, with the reason.",
    )
    epsilon: float = Field(8.0, description="Upper bound for the whole run; inf turns privacy off.")
    delta: Annotated[float, Field(ge=0)] = Field(
        0.0,
        description="0 takes 1/(10 x population), rounded down to a power of ten; with unit window 1/(10 x population x "
        "windows_per_user).",
    )
    population: Annotated[int, Field(ge=0, le=10**12)] = Field(
        0,
        description="Users, as a public constant that you declare; 0 takes the number found, rounded down to two "
        "significant digits. The exact number is in no plan and no release.",
    )
    windows_per_user: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        10,
        description="Unit window: most windows of one user, the latest ones; a public bound that delta follows from.",
    )
    expected_cohort: Annotated[int, Field(ge=0)] = Field(
        0, description="Clients expected in a round, each drawn by its own coin; 0 asks all. One user a client only."
    )
    cohort_cap: Annotated[int, Field(ge=0)] = Field(
        0, description="Largest cohort; a larger draw is cut, which costs privacy. 0: no cap."
    )
    colluding_clients: Annotated[int, Field(ge=0)] = Field(
        0, description="Clients whose noise shares are not relied on (mechanism distributed)."
    )
    min_separation: Annotated[int, Field(ge=0)] = Field(
        0, description="DP-FTRL: steps between two participations of a user; 0 follows from the cohort or sampling rate."
    )
    l2_clip_norm: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        0.1, description="Bound C on one user's contribution: a gradient (silos) or a whole update."
    )
    clipping: Literal["fixed", "adaptive"] = Field(
        "fixed", description="adaptive: C follows a quantile of the norms, counted privately. One user a client only."
    )
    clipping_quantile: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] = Field(
        0.5, description="Share of the norms that adaptive clipping leaves unclipped."
    )
    clipping_budget_share: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] = Field(
        0.05, description="Share of a round's squared sensitivity that adaptive clipping spends."
    )
    popularity_noise_multiplier: Literal["auto"] | Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        "auto",
        description="Noise of the popularity count over its L2 sensitivity; auto: 3, or more where epsilon is small; 0 "
        "releases none under privacy.",
    )
    pairs_noise_multiplier: Literal["auto"] | Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        "auto", description="Noise of the pairs over their L2 sensitivity; auto: from their share of epsilon."
    )
    transitions_noise_multiplier: Literal["auto"] | Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        "auto", description="Noise of the transitions over their L2 sensitivity; auto: from their share of epsilon."
    )
    refinement_noise_multiplier: Literal["auto"] | Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        "auto", description="Noise of the refined statistic over its L2 sensitivity; auto: from its share of epsilon."
    )
    blending_noise_multiplier: Literal["auto"] | Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        "auto", description="Noise of the step of the scores' weights over its L2 sensitivity; auto: from its share."
    )
    selection_noise_multiplier: Literal["auto"] | Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        "auto", description="Noise of the candidates' comparison over its L2 sensitivity; auto: from its share of epsilon."
    )
    evaluation_noise_multiplier: Literal["auto"] | Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        "auto",
        description="Noise of released metrics over their L2 sensitivity; auto: 5, or more where epsilon is small; 0 "
        "releases no metrics under privacy.",
    )
    reply_bucket_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        0.0, description="A client answers at a multiple of this; 0 answers at once (simulations)."
    )
    ledger: str = Field("", description="SQLite file of the device's ledger; empty puts it into the population folder.")


class SecureAggregationSection(Section):
    """Whether the server sees contributions or only their sum. For mechanism `distributed`; no other one needs it."""

    enabled: bool = Field(True, description="Form sums by secure aggregation; false: mechanism auto is central.")
    simulate: Literal["sum", "full"] = Field(
        "sum",
        description="sum: a simulation adds contributions up in the open; full: every client masks its contributions, as in "
        "every deployment.",
    )
    corrupt_fraction: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.05, description="Part of a cohort that is assumed to collude with the server; its noise does not count."
    )
    dropout_fraction: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.05, description="Part of a cohort that may stop answering after it advertised its keys."
    )
    server: Literal["curious", "active"] = Field(
        "active", description="Assumed server. curious: keeps the protocol and reads everything; active: may break it."
    )
    roster: str = Field("", description="The server's file of who may take part; empty: the simulation's own.")


class StatisticsSection(Section):
    """What is released beside the adapter: sums over users of one bounded vector each (`shared/privacy/releases.py`)."""

    releases: str = Field(
        "auto",
        description="Of pairs, transitions, refinement, blending, selection, or none; auto: what fits the population.",
    )
    head: Annotated[int, Field(ge=0)] = Field(
        0,
        description="Most popular items whose pairs are counted; 0: as many as noise and upload_bytes allow, and in a "
        "simulation memory. The same for the server and all clients.",
    )
    dimensions: Annotated[int, Field(ge=0, le=_WIDEST)] = Field(
        0,
        description="Most directions of items between which transitions are counted, half of them those of the pairs' "
        "factors where pairs are released; 0: as many as the noise allows.",
    )
    window: Annotated[int, Field(ge=1, le=1000)] = Field(20, description="Largest distance within a pair, in interactions.")
    pair_decay: Annotated[float, Field(gt=0, le=1)] = Field(0.95, description="Weight of each further step of distance.")
    upload_bytes: Annotated[int, Field(ge=1000)] = Field(
        1_000_000,
        description="Most bytes that a client sends of one noised statistic; the head shrinks to fit. Without privacy only "
        "the largest head limits it, to 8 MB.",
    )

    def names(self) -> tuple[str, ...] | None:
        """`releases` as names, the prior's among them; None for auto.

        Raises:
            ConfigError: If one is unknown.
        """
        if self.releases == "auto":
            return None
        from shared.privacy.releases import METRICS, POPULARITY, release_names

        known = [name for name in release_names() if name not in (POPULARITY.name, METRICS.name)]
        given = {part.strip() for part in self.releases.split(",")} - {"", "none"}
        unknown = sorted(given - set(known))
        if unknown:
            raise ConfigError(
                f"Expected statistics.releases to be names of {', '.join(known)}, or auto or none, got "
                f"statistics.releases={self.releases}. Leave out {', '.join(unknown)}."
            )
        if "refinement" in given and not {"pairs", "transitions", "blending"} <= given:
            raise ConfigError(
                f"Expected pairs, transitions and blending beside refinement, got statistics.releases={self.releases}. The "
                "first step of the weights says which statistic is refined; name them too, or leave refinement out."
            )
        return tuple(name for name in known if name in given)


class EvaluationSection(Section):
    """How quality is measured."""

    k: Annotated[int, Field(ge=1, le=10_000)] = Field(10, description="Length of the recommended list.")
    every_rounds: Annotated[int, Field(ge=1)] = Field(1, description="Validate every so many rounds.")
    bootstrap_replicates: Annotated[int, Field(ge=0, le=100_000)] = Field(200, description="Replicates behind an interval.")
    batch_size: Annotated[int, Field(ge=1, le=_LARGEST)] = Field(128, description="Users scored at once.")
    released_round: Literal["last", "best-noised"] = Field(
        "last",
        description="Which round is released: fixed in advance, or the best of the noised, accounted validations.",
    )
    cold_items: Annotated[float, Field(ge=0, le=0.5)] = Field(
        0.0, description="Share of the items, drawn by the seed, that are new after training: a section of the report."
    )
    baselines: str = Field("cheap", description="Comma-separated names, or 'cheap', 'all', 'none'.")
    compare: str = Field("", description="Comma-separated folders of other runs on the same data, put into the same table.")


def _seconds(text: str) -> int:
    """Seconds since 1970 from a number or an ISO date or time, which is in UTC where it does not say otherwise."""
    if text.isascii() and text.isdigit():
        return int(text)
    time = datetime.datetime.fromisoformat(text)
    return math.floor((time if time.tzinfo else time.replace(tzinfo=datetime.UTC)).timestamp())


def _rank_pattern(text: str) -> tuple[str, int]:
    pattern, _, rank = (part.strip() for part in text.rpartition("="))
    try:
        re.compile(pattern)
    except re.error:
        pattern = ""
    if not pattern or not (rank.isascii() and rank.isdigit()):
        raise ConfigError(
            f"Expected adapter.ranks to be PATTERN=RANK separated by commas, got '{text}'. Write e.g. "
            "'layer.0=0,query|value=8'; a pattern is a regular expression without commas."
        )
    return pattern, int(rank)


def schedule_factor(schedule: str, *, round_number: int, rounds: int) -> float:
    """What the learning rate of a round (from 1) is multiplied by; cosine falls to a tenth in the last round."""
    if schedule == "constant" or rounds == 1:
        return 1.0
    return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (round_number - 1) / (rounds - 1)))
