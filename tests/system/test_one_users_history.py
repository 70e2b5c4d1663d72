"""Two populations that differ in one user: all that is sent, released, logged or quoted is equal, noise aside.

Whole federations run on both, and everything that leaves a client or the server is written down: every Flower message (its
type, order, address, records, keys, scalars, shapes and types of arrays), every error, every file of the run but the
research record. What is left out of the comparison is listed in `NOISED` and `UNRELATED`, and nothing else is: values with
accounted noise in them, and values that no data goes into (times, random names, digests of noised files).

The neighbors are what the claims are about: a user whose whole history is left out (zero-out), one whose history is faulty,
one who is not there at all (add-or-remove; where clients are users, for what an outsider gets), and under unit `window` one
interaction that is another. The negative control of each is that the comparison sees a difference where there is one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from flwr.app import ArrayRecord, Message

from client.app import app as client_app
from client.ledger.ledger import Ledger, Policy
from server.app import server_app
from server.reporting.release_page import write_release_page
from shared.config import RunConfig
from shared.data.catalog import ItemCatalog
from simulations.engines.cohort import CohortGrid
from simulations.engines.local_grid import InProcessGrid, serve
from simulations.population import write_population

# Values with accounted noise in them, wherever a record or a file has them.
NOISED = {"hr", "ndcg", "users", "noise_half_width", "aggregation_error", "aggregation_cut", "chosen", "gains"}
# Where clipping is adaptive the bound moves with a noised count.
NOISED_IF_ADAPTIVE = {"l2_clip_norm"}
# Values that no user's data goes into: clocks, names and salts drawn at random, digests of files and lines that hold noised
# values, a log's head, which is a digest of salts too (tests of `log_heads.py`).
UNRELATED = {
    "seconds",
    "previous",
    "salt",
    "head",
    "instruction",
    "training_seconds",
    "run_digest",
    "manifest_digest",
    "files",
}

USERS, ITEMS, ODD = 12, 12, 7
SILOS = {"federation.clients": 3}
APART = {"federation.clients": 0, "privacy.mechanism": "central", "training.local_steps": 1}
# Without a refinement: which statistic is refined follows from noised values, and shows in what is asked for.
ALL_STATISTICS = "pairs,transitions,blending,selection"
RUNS: dict[str, dict[str, Any]] = {
    "dp-sgd": SILOS,
    "dp-sgd, client ranks": {**SILOS, "adapter.client_ranks": "2,1"},
    "dp-ftrl-silo": {**SILOS, "privacy.mechanism": "dp-ftrl-silo", "privacy.min_separation": 2},
    "central": APART,
    "central, adaptive": {**APART, "privacy.clipping": "adaptive"},
    "central, best round": {**APART, "evaluation.released_round": "best-noised"},
    "dp-ftrl-central": {**APART, "privacy.mechanism": "dp-ftrl-central", "privacy.expected_cohort": 6},
    "distributed": {**APART, "privacy.mechanism": "distributed"},
    "dp-sgd, statistics": {**SILOS, "statistics.releases": ALL_STATISTICS},
    "central, statistics": {**APART, "statistics.releases": ALL_STATISTICS},
    "distributed, statistics": {**APART, "privacy.mechanism": "distributed", "statistics.releases": ALL_STATISTICS},
    "distributed, adaptive": {**APART, "privacy.mechanism": "distributed", "privacy.clipping": "adaptive"},
}

Histories = pl.DataFrame
Change = Callable[[list[dict[str, Any]]], list[dict[str, Any]]]


def _histories(change: Change = lambda rows: rows) -> Histories:
    """12 users with histories of 3 to 8 items; changed in one user."""
    rng = np.random.default_rng(11)
    rows = [
        {
            "user": f"u{user:02}",
            "train": rng.integers(0, ITEMS, size=int(rng.integers(3, 9))).tolist(),
            "validation": [int(rng.integers(0, ITEMS))],
            "test": [int(rng.integers(0, ITEMS))],
        }
        for user in range(USERS)
    ]
    kept = pl.List(pl.Int32)
    schema = {"user": pl.String, "train": kept, "validation": kept, "test": kept}
    return pl.DataFrame(change(rows), schema=schema)


def _with_odd(**values: list[int]) -> Change:
    return lambda rows: [{**row, **values} if place == ODD else row for place, row in enumerate(rows)]


NEIGHBORS: dict[str, Change] = {
    "left out": _with_odd(train=[], validation=[], test=[]),
    "with a faulty history": _with_odd(train=[3] * 40 + [1, 99, -4, 2**31 - 1], validation=[0, 77], test=[-1]),
}
REMOVED: Change = lambda rows: [row for place, row in enumerate(rows) if place != ODD]  # noqa: E731


class _Recording:
    """Writes down what goes over the wire, and nothing of it that is declared noised."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.wire: list[Any] = []
        self.noised = _noised(settings["run_config"])

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        asked = list(messages)
        self.wire += [("to", _shown(message, self.noised)) for message in asked]
        answers = []
        for reply in super().send_and_receive(asked, timeout=timeout):  # type: ignore[misc]
            answers.append(("from", _shown(reply, self.noised)))
            yield reply
        self.wire += answers


class _OneByOne(_Recording, InProcessGrid):
    pass


class _AtOnce(_Recording, CohortGrid):
    pass


def _noised(run_config: Mapping[str, Any]) -> set[str]:
    adaptive = run_config["privacy.clipping"] == "adaptive"
    return NOISED | UNRELATED | (NOISED_IF_ADAPTIVE if adaptive else set())


def _shown(message: Message, noised: set[str]) -> dict[str, Any]:
    """All of a message but the numbers in its arrays: these are noised states and contributions."""
    metadata = message.metadata
    shown: dict[str, Any] = {
        "type": metadata.message_type,
        "group": metadata.group_id,
        "nodes": (metadata.src_node_id, metadata.dst_node_id),
    }
    if message.has_error():
        return {**shown, "error": (message.error.code, message.error.reason)}
    for name, record in message.content.items():
        if isinstance(record, ArrayRecord):
            shown[name] = {key: (array.dtype, tuple(array.shape), array.stype) for key, array in record.items()}
        else:
            shown[name] = _without(noised, dict(record))
    return shown


def _without(names: set[str], value: Any) -> Any:
    """JSON without the values of some keys; whether one is None stays."""
    if isinstance(value, dict):
        return {key: (inner is None) if key in names else _without(names, inner) for key, inner in value.items()}
    return [_without(names, inner) for inner in value] if isinstance(value, list) else value


class World:
    """One federation: its population, what went over the wire, and what lies in its folder."""

    def __init__(
        self, folder: Path, config: RunConfig, histories: Histories, catalog: ItemCatalog, *, grid: Any, limit: float = 0.0
    ) -> None:
        population = folder / "population"
        clients = config.federation.clients
        write_population(histories, catalog, None, population, clients=clients, declared=config.privacy.population)
        config = config.with_values({"data.population": str(population), "run.out": str(folder / "run")})
        if limit:
            ledger = Ledger(population / "ledger.sqlite")
            ledger.set_policy(Policy(epsilon=limit))
            ledger.close()
        given = {"num_nodes": clients or len(histories), "run_config": config.to_flat()}
        self.folder, self.run, self.error = folder, folder / "run", ""
        self.grid = grid(**given) if grid is _AtOnce else grid(client_app, **given)
        try:
            serve(server_app(), self.grid)
            write_release_page(self.run)
        except Exception as error:
            self.error = f"{type(error).__name__}: {error}"

    @property
    def observed(self) -> dict[str, Any]:
        """All that anybody but the clients themselves may see."""
        return {"error": self.error, "wire": self.grid.wire, "files": self.files}

    @property
    def released(self) -> dict[str, Any]:
        """What an outsider gets: the release report and its page, the adapter's folder."""
        return {name: value for name, value in self.files.items() if name.startswith(("release", "adapter/"))}

    @property
    def files(self) -> dict[str, Any]:
        """Every file of the run by its name: text without what is noised, of others the size."""
        found = {}
        for path in sorted(path for path in self.run.rglob("*") if path.is_file()):
            name = path.relative_to(self.run).as_posix()
            found[name] = self._content(path)
        return found

    def _content(self, path: Path) -> Any:
        if path.suffix == ".jsonl":
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            return [_without(self.grid.noised, row) for row in rows if row["event"] != "progress"]  # which are by the clock
        if path.suffix == ".json":
            return _without(self.grid.noised, json.loads(self._text(path)))
        if path.suffix in (".html", ".md"):
            # The manifest's digest, which a page quotes, is of noised values.
            return re.sub(r"\b[0-9a-f]{12,}\b", "#", self._text(path))
        return path.stat().st_size

    def _text(self, path: Path) -> str:
        return path.read_text(encoding="utf-8").replace(str(self.folder), "FOLDER")


@pytest.fixture
def world(tmp_path: Path, tiny_config: RunConfig, tiny_catalog: ItemCatalog) -> Callable[..., World]:
    def make(name: str, histories: Histories, settings: dict[str, Any], *, grid: Any = _AtOnce, limit: float = 0.0) -> World:
        config = tiny_config.with_values(
            {
                "run.reproducible": False, "privacy.population": USERS, "privacy.delta": 1e-3,
                "server.learning_rate": 1.0, **settings,
            }
        )  # fmt: skip
        (tmp_path / name).mkdir()
        return World(tmp_path / name, config, histories, tiny_catalog, grid=grid, limit=limit)

    return make


# One client after the other takes longer, and sends what all at once do.
GRIDS = [(name, _AtOnce) for name in RUNS] + [
    (name, _OneByOne) for name in ("dp-sgd", "central, adaptive", "central, statistics", "distributed")
]


@pytest.mark.parametrize(("mechanism", "grid"), GRIDS, ids=lambda value: getattr(value, "__name__", value))
def test_nothing_but_noised_values_depends_on_one_users_history(
    mechanism: str, grid: Any, world: Callable[..., World]
) -> None:
    base = world("base", _histories(), RUNS[mechanism], grid=grid).observed
    assert base["error"] == ""
    kinds = {entry["type"] for way, entry in base["wire"] if way == "from"}
    released = {one for one in ALL_STATISTICS.split(",") if "statistics" in mechanism}
    assert kinds == {"train", "query.popularity", *(f"query.{name}" for name in released), "query.metrics"}
    assert {"release.json", "release.html", "events.jsonl", "adapter/manifest.json"} <= set(base["files"])
    for name, change in NEIGHBORS.items():
        assert world(name, _histories(change), RUNS[mechanism], grid=grid).observed == base


@pytest.mark.parametrize("mechanism", ["dp-sgd", "dp-sgd, client ranks", "dp-ftrl-silo"])
def test_nothing_but_noised_values_depends_on_whether_a_user_of_a_silo_is_there(
    mechanism: str, world: Callable[..., World]
) -> None:
    base, removed = (world(str(len(rows)), rows, RUNS[mechanism]) for rows in (_histories(), _histories(REMOVED)))
    assert removed.observed == base.observed


@pytest.mark.parametrize("mechanism", [name for name in RUNS if name.startswith("central")])
def test_what_is_released_does_not_tell_whether_a_user_with_a_client_of_its_own_is_there(
    mechanism: str, world: Callable[..., World]
) -> None:
    """The server counts its clients, and its log does; what it releases has public constants and noised values alone.

    That is the claim against an outsider under `central`; the other claims of whole updates are about zero-out.
    """
    base, removed = world("base", _histories(), RUNS[mechanism]), world("removed", _histories(REMOVED), RUNS[mechanism])
    assert (base.error, removed.error) == ("", "")
    assert {"release.json", "release.html", "adapter/manifest.json"} <= set(base.released)
    assert removed.released == base.released
    assert removed.grid.wire != base.grid.wire  # the negative control: a client less is seen by whoever may see it


def test_nothing_but_noised_values_depends_on_one_interaction_under_unit_window(world: Callable[..., World]) -> None:
    settings = {**SILOS, "privacy.unit": "window", "model.max_history_length": 3}
    rows = _histories().to_dicts()
    changed = [*rows[ODD]["train"][:-1], (rows[ODD]["train"][-1] + 1) % ITEMS]
    base = world("base", _histories(), settings)
    assert world("changed", _histories(_with_odd(train=changed)), settings).observed == base.observed


@pytest.mark.parametrize("mechanism", ["dp-sgd", "central", "dp-ftrl-silo"])
@pytest.mark.parametrize("limit", [0.05, 6.0], ids=["refused at once", "less than the plan asks"])
def test_no_refusal_of_a_clients_owner_depends_on_one_users_history(
    mechanism: str, limit: float, world: Callable[..., World]
) -> None:
    base = world("base", _histories(), RUNS[mechanism], limit=limit).observed
    assert [entry["error"] for way, entry in base["wire"] if way == "from" and "error" in entry]
    faulty = _histories(NEIGHBORS["with a faulty history"])
    assert world("faulty", faulty, RUNS[mechanism], limit=limit).observed == base


def test_the_comparison_sees_what_differs(world: Callable[..., World]) -> None:
    """The negative control: whatever is not declared noised is seen, and what is declared is not."""
    one, other = (world(name, _histories(), SILOS) for name in ("one", "other"))
    assert other.observed == one.observed
    sent, answer = other.grid.wire[0][1], next(entry for way, entry in other.grid.wire if way == "from")
    for entry, key, value in (
        (sent["fields"], "plan.population", USERS + 1),
        (answer["array"], "flat", ("float32", (3,), "numpy.ndarray")),
        (answer, "metrics", {"training_loss": 0.1}),
        (answer, "error", (1, "The client failed with ValueError at client/store/population.py:1.")),
    ):
        before = entry.get(key)
        entry[key] = value
        assert other.observed != one.observed
        entry[key] = before
        if before is None:
            del entry[key]
        assert other.observed == one.observed
    events = other.run / "events.jsonl"
    text = events.read_text(encoding="utf-8")
    for old, new, seen in (('"clients_answered": 3', '"clients_answered": 2', True), ('"hr": null', '"hr": 0.5', True)):
        assert old in text
        events.write_text(text.replace(old, new), encoding="utf-8")
        assert (other.observed != one.observed) is seen
    events.write_text(re.sub(r'"seconds": [0-9.e-]+', '"seconds": 1.5', text), encoding="utf-8")
    assert other.observed == one.observed
