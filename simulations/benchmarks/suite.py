"""What `tacit bench` measures: the modules of this folder, their peers and their targets.

Lives here: the list; another benchmark takes one entry. Never here: a measurement (the modules, each a command of its own),
running them (`runner.py`), showing them (`table.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

from shared.errors import ConfigError
from shared.listing import split_list
from simulations.terminal import plain


@dataclass(frozen=True)
class Measure:
    """A number in a printed record: one row of the table.

    Attributes:
        key: Its name in JSON.
        label: Its name in the table.
        value: Its dotted path in the record.
        against: The peer; "" without one.
        unit: "" for ratios.
        at_least: Target; None with `at_most` None too: no target.
        at_most: Target.
        where: A dotted path and its value, to choose among the records of one benchmark.
    """

    key: str
    label: str
    value: str
    against: str
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None
    where: tuple[str, object] | None = None


@dataclass(frozen=True)
class Benchmark:
    """A module of this folder with arguments.

    Attributes:
        name: For `--only`.
        module: Its name.
        arguments: As on a command line.
        minutes: Approximate duration on two idle cores.
        measures: Rows of the table.
        long: Runs with `--all` or by name only.
        takes_data: It has `--data`.
        on_gpu: It needs a GPU.
    """

    name: str
    module: str
    arguments: str
    minutes: float
    measures: tuple[Measure, ...]
    long: bool = False
    takes_data: bool = False
    on_gpu: bool = False


_CENTRALIZED, _STOCK, _PLAIN_STEP = "plain centralized training", "stock Flower app on Ray", "plain step, same batches"

# A hundred or a thousand times the users, the same cohort: memory grows with what is in flight, not with the population.
_GROWTH = 1.25

# fmt: off
BENCHMARKS = (
    Benchmark("efficiency", "efficiency", "--local-steps 1 --set run.device=cpu", 1, (
        Measure("efficiency", "efficiency", "ratio", _CENTRALIZED, at_least=0.9),
    ), takes_data=True),
    Benchmark("efficiency_remembering", "efficiency", "--local-steps 1 --remember --set run.device=cpu", 1, (
        Measure("efficiency_remembering", "efficiency, both remembering", "ratio", _CENTRALIZED),
    ), takes_data=True),
    Benchmark("efficiency_gpu", "efficiency", "--local-steps 1 --set run.device=cuda", 1, (
        Measure("efficiency_gpu", "efficiency on a GPU", "ratio", _CENTRALIZED, at_least=0.7),
    ), takes_data=True, on_gpu=True),
    Benchmark("efficiency_five_steps", "efficiency", "--local-steps 5 --users 256 --set run.device=cpu", 2, (
        Measure("efficiency_five_steps", "efficiency, 5 local steps", "ratio", _CENTRALIZED, at_least=0.6),
    ), takes_data=True),
    Benchmark("efficiency_five_steps_gpu", "efficiency", "--local-steps 5 --set run.device=cuda", 1, (
        Measure("efficiency_five_steps_gpu", "efficiency, 5 local steps, on a GPU", "ratio", _CENTRALIZED, at_least=0.6),
    ), takes_data=True, on_gpu=True),
    Benchmark("against_flower", "against_flower", "--set run.device=cpu", 5.5, (
        Measure("speedup_over_stock_flower", "speed-up", "speedup_over_stock_flower", _STOCK, at_least=3),
        Measure("speedup_over_stock_flower_with_startup", "speed-up with start-up, 20 rounds",
                "speedup_over_stock_flower_with_startup", _STOCK, at_least=8),
    ), takes_data=True),
    Benchmark("against_flower_gpu", "against_flower", "--set run.device=cuda", 5, (
        Measure("speedup_over_stock_flower_gpu", "speed-up on a GPU", "speedup_over_stock_flower", _STOCK, at_least=100),
    ), takes_data=True, on_gpu=True),
    Benchmark("overhead", "overhead", "--epsilon inf", 0.5, (
        Measure("overhead_ms_a_client", "overhead a client", "overhead_ms", "arithmetic taken off", "ms", at_most=0.1),
        Measure("total_ms_a_client", "a client, arithmetic included", "total_ms", "a client of pfl", "ms"),
    )),
    Benchmark("against_pfl", "against_pfl", "--repeats 5", 1.2, (
        Measure("pfl_ms_a_client", "a client of pfl", "milliseconds_a_client.pfl", "(a peer)", "ms"),
        Measure("grid_ms_a_client", "a message of the in-process grid", "milliseconds_a_client.in-process grid",
                "(a peer)", "ms"),
        Measure("client_ratio_to_pfl", "a client, as floats", "ratio_to_pfl.cohort engine, floats", "a client of pfl"),
        Measure("exact_client_ratio_to_pfl", "a client, in exact sums", "ratio_to_pfl.cohort engine, exact sums",
                "a client of pfl"),
    )),
    Benchmark("first_step", "first_step", "--repeats 5", 1, (
        Measure("seconds_to_first_step", "start to first local step", "seconds", "importing the libraries", "s", at_most=3),
    ), takes_data=True),
    Benchmark("scale", "scale", "--users 1000,10000,100000", 0.8, (
        Measure("memory_growth_100000_users", "memory growth, 100,000 users", "memory_growth", "1,000 users",
                at_most=_GROWTH, where=("users", 100_000)),
        Measure("rss_anon_mb_100000_users", "memory, 100,000 users", "rss_anon_mb", "", "MB",
                where=("users", 100_000)),
        Measure("seconds_a_round_100000_users", "a round, 100,000 users", "seconds_a_round", "", "s",
                where=("users", 100_000)),
    )),
    Benchmark("scale_million", "scale", "--users 1000,1000000", 15, (
        Measure("memory_growth_1000000_users", "memory growth, 1,000,000 users", "memory_growth", "1,000 users",
                at_most=_GROWTH, where=("users", 1_000_000)),
        Measure("rss_anon_mb_1000000_users", "memory, 1,000,000 users", "rss_anon_mb", "", "MB",
                where=("users", 1_000_000)),
        Measure("seconds_a_round_1000000_users", "a round, 1,000,000 users", "seconds_a_round", "", "s",
                where=("users", 1_000_000)),
    ), long=True),
    Benchmark("statistics", "statistics", "--share --users ''", 3, (
        Measure("statistics_share", "a run with statistics, 1,000 users, 20 rounds", "ratio", "without", at_most=4 / 3),
    ), long=True),
    Benchmark("sums_in_the_open", "statistics", "--sums --users ''", 3, (
        Measure("sums_in_the_open", "noise in shares, 1,000 users, statistics and 20 rounds", "ratio", "central noise",
                at_most=1.5),
    ), long=True),
    Benchmark("statistics_scale", "statistics", "--users 1000,10000,100000", 8, (
        Measure("statistics_seconds_10000_users", "statistics, 10,000 users, a head of 2,000", "seconds", "", "s",
                where=("users", 10_000)),
        Measure("statistics_seconds_100000_users", "statistics, 100,000 users, a head of 2,000", "seconds", "", "s",
                at_most=300, where=("users", 100_000)),
        Measure("statistics_rss_anon_mb_100000_users", "memory of these", "rss_anon_mb", "", "MB",
                where=("users", 100_000)),
    ), long=True),
    Benchmark("startup", "startup", "--repeats 5", 0.4, (
        Measure("seconds_to_help", "tacit --help", "a", "a bare interpreter", "s", at_most=0.5),
    )),
    Benchmark("grid_overhead", "grid_overhead", "", 0.2, (
        Measure("grid_ratio", "message through the grid", "ratio", "Flower's serialization"),
    )),
    Benchmark("ledger_cost", "ledger_cost", "--messages 400", 0.3, (
        Measure("ledger_ms_a_message", "ledger, one client", "reserve_and_sent_ms", "", "ms", at_most=20),
        Measure("ledger_us_a_client", "ledger, a cohort of 10,000", "a", "a transaction each", "us", at_most=20,
                where=("a.name", "many in one transaction")),
    )),
    Benchmark("noise_cost", "noise_cost", "", 0.1, (
        Measure("discrete_noise_ms", "integer noise, an update", "a", "continuous noise", "ms", at_most=50),
        Measure("continuous_noise_ms", "continuous noise, an update", "b", "integer noise", "ms", at_most=30),
    )),
    Benchmark("secure_aggregation", "secure_aggregation", "", 0.4, (
        Measure("secure_sum_client_ms", "secure sum, keys, masks, shares", "client_keys_masks_shares_ms", "", "ms",
                at_most=15),
        Measure("secure_sum_client_all_ms", "secure sum, a client, all stages", "client_ms", "", "ms"),
        Measure("secure_sum_server_seconds", "secure sum, server, 1,000 clients", "server_seconds", "", "s", at_most=5),
    )),
    Benchmark("against_secaggplus", "against_secaggplus", "", 0.2, (
        Measure("secure_sum_against_flower", "secure sum, a client", "ratio", "a client of Flower's SecAgg+", at_most=0.1),
    )),
    Benchmark("audit_cost", "audit_cost", "", 1.5, (
        Measure("audit_seconds", "an audit of the default run, 2,000 canaries", "audit_seconds", "", "s", at_most=600),
        Measure("audit_twin_ratio", "its twin", "ratio", "the run without canaries"),
        Measure("audit_verify_seconds", "verifying an audit", "verify_seconds", "", "s", at_most=20),
    ), long=True),
    Benchmark("accounting_cost", "accounting_cost", "", 0.2, (
        Measure("seconds_an_epsilon", "an epsilon, 10,000 events", "a", "asked again", "s", at_most=5),
    )),
    Benchmark("private_step", "private_step", "", 0.4, (
        Measure("private_step_ratio", "private step, closed form", "ratio", _PLAIN_STEP, at_most=1.05,
                where=("a.name", "closed form")),
        Measure("private_step_opacus_ratio", "private step, Opacus", "ratio", _PLAIN_STEP, at_most=1.25,
                where=("a.name", "Opacus")),
    ), takes_data=True, long=True),
    Benchmark("private_step_full", "private_step", "--full-adapter", 1.5, (
        Measure("private_step_full_ratio", "private step, full adapter", "ratio", _PLAIN_STEP, at_most=1.05,
                where=("a.name", "closed form")),
        Measure("private_step_full_opacus_ratio", "private step, full adapter, Opacus", "ratio", _PLAIN_STEP, at_most=1.25,
                where=("a.name", "Opacus")),
    ), takes_data=True, long=True),
    Benchmark("evaluation_cost", "evaluation_cost", "", 0.5, (
        Measure("evaluation_ratio", "evaluation", "ratio", "one plain epoch", at_most=0.5),
    ), takes_data=True, long=True),
    Benchmark("evaluation_cost_full", "evaluation_cost", "--full-adapter", 3, (
        Measure("evaluation_full_ratio", "evaluation, full adapter", "ratio", "one plain epoch", at_most=0.5),
    ), takes_data=True, long=True),
    Benchmark("reading", "reading", "", 3, (
        Measure("parquet_rows_a_second", "reading 25,000,000 rows of Parquet", "rows_a_second", "", "rows/s",
                at_least=1_000_000, where=("format", "parquet")),
        Measure("parquet_peak_mb", "memory, 25,000,000 rows of Parquet", "peak_mb", "", "MB", at_most=4000,
                where=("format", "parquet")),
        Measure("json_rows_a_second", "reading 25,000,000 rows of JSON lines", "rows_a_second", "", "rows/s",
                at_least=200_000, where=("format", "json")),
        Measure("json_peak_mb", "memory, 25,000,000 rows of JSON lines", "peak_mb", "", "MB", at_most=4000,
                where=("format", "json")),
    ), long=True),
    Benchmark("ingest", "ingest", "", 1.5, (
        Measure("ingest_a_second", "ingest into a node's database, one core", "a_second", "", "rows/s",
                at_least=50_000, where=("kind", "clear")),
        Measure("ingest_a_processor_second", "the same, a second of the processor", "a_processor_second", "", "rows/s",
                where=("kind", "clear")),
        Measure("encrypted_ingest_a_second", "the same, encrypted", "a_second", "", "rows/s", at_least=50_000,
                where=("kind", "encrypted")),
        Measure("encrypted_ingest_a_processor_second", "encrypted, a second of the processor", "a_processor_second", "",
                "rows/s", where=("kind", "encrypted")),
    ), long=True),
    Benchmark("recommend_latency", "recommend_latency", "", 3, (
        Measure("recommend_p99_ms", "GET /recommend, 10,000 items, 99 of 100 within", "p99_ms", "", "ms", at_most=50,
                where=("kind", "reading")),
        Measure("recommend_p50_ms", "the same, half of them within", "p50_ms", "", "ms", where=("kind", "reading")),
        Measure("recommend_logging_p99_ms", "after an interaction was logged, 99 of 100 within", "p99_ms", "", "ms",
                at_most=50, where=("kind", "logging")),
    ), long=True),
    Benchmark("warm_message", "round_of_nodes", "--only message", 1.5, (
        Measure("warm_message_seconds", "a warm node's message, less training", "beyond_training", "", "s", at_most=0.5),
    ), long=True),
    Benchmark("round_of_nodes", "round_of_nodes", "--only round,secure", 6, (
        Measure("round_of_nodes_ratio", "a round of 5 nodes, less training", "ratio", "stock Flower in deployment",
                at_most=1 / 3, where=("part", "round")),
        Measure("round_of_nodes_seconds", "the same, seconds", "ours", "", "s", where=("part", "round")),
        Measure("secure_round_of_nodes_seconds", "the same with secure sums", "ours", "", "s", where=("part", "secure")),
    ), long=True),
    Benchmark("idle_node", "idle_node", "", 4, (
        Measure("idle_node_percent", "an idle node, share of a core", "processor_percent", "", "%", at_most=1),
        Measure("idle_node_mb", "an idle node, memory (PSS)", "pss_mb", "", "MB", at_most=250),
    ), long=True),
    Benchmark("large_catalog", "large_catalog", "", 6, (
        Measure("sampled_step_ratio", "sampled softmax, 100,000 items", "ratio", "full softmax", where=("part", "full")),
        Measure("sampled_step_growth", "sampled step, 1,000,000 items", "ratio", "10,000 items", at_most=2,
                where=("part", "growth")),
        Measure("ranked_users_a_second", "full ranking of 1,000,000 items", "users_a_second", "", "users/s",
                where=("part", "ranking")),
        Measure("straight_users_a_second", "the same in one block", "users_a_second", "", "users/s",
                where=("part", "straight")),
        Measure("large_catalog_peak_mb", "memory, ranking 1,000,000 items", "peak_mb", "", "MB", where=("part", "ranking")),
        Measure("straight_peak_mb", "memory, the same in one block", "peak_mb", "", "MB", where=("part", "straight")),
    ), long=True),
    Benchmark("population_read", "population_read", "", 2, (
        Measure("population_read_ratio", "1,000 clients out of a million", "ratio", "out of 10,000"),
    ), long=True),
)
# fmt: on


def choose(only: str | None, *, everything: bool) -> list[Benchmark]:
    """The benchmarks of `--only`, in the order of the list, or the default set, or all.

    Args:
        only: Names separated by commas; a key in the JSON stands for its benchmark. None: not given.
        everything: Include the long ones. `only` may name them anyway.

    Raises:
        ConfigError: If a name is unknown.
    """
    if only is None:
        return [benchmark for benchmark in BENCHMARKS if everything or not benchmark.long]
    asked = set(split_list(only, name="--only"))
    names = {one.name: {one.name, *(measure.key for measure in one.measures)} for one in BENCHMARKS}
    if unknown := asked.difference(*names.values()):
        raise ConfigError(
            f"Expected --only to name benchmarks, got --only={plain(min(unknown))}. Take some of: {', '.join(names)}."
        )
    return [benchmark for benchmark in BENCHMARKS if asked & names[benchmark.name]]
