"""What each domain adds to the embedded set, on small populations."""

from functools import cache
from typing import Any

import numpy as np
import polars as pl
import pytest

from shared.data.catalog import build_catalog
from shared.data.splitting import scoring_histories, split
from shared.errors import ConfigError
from simulations.datasets import load_dataset
from simulations.worlds import synthetic, worlds
from simulations.worlds.domains import DOMAINS, Domain

NAMES = tuple(DOMAINS)


@cache
def made(name: str) -> synthetic.SyntheticSet:
    return synthetic.generate(DOMAINS[name], num_users=600, seed=3)


@cache
def world(name: str) -> worlds.World:
    return worlds.draw_world(120, np.random.default_rng(1), DOMAINS[name])


def steps(name: str) -> pl.DataFrame:
    """Each interaction with its place in its history and its item's catalog row."""
    rows = pl.DataFrame({"item": made(name).catalog.ids, "row": np.arange(made(name).catalog.num_items)})
    return (
        made(name)
        .interactions.frame.sort("user", "timestamp")
        .join(rows, on="item", how="left", maintain_order="left")
        .with_columns(place=pl.int_range(pl.len()).over("user"), length=pl.len().over("user"))
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_domain_is_a_function_of_its_seed(name: str) -> None:
    again, other = (synthetic.generate(DOMAINS[name], num_users=600, seed=seed) for seed in (3, 4))
    assert again.interactions.frame.equals(made(name).interactions.frame)
    assert again.catalog == made(name).catalog and again.ceiling == made(name).ceiling
    assert other.catalog != made(name).catalog and other.ceiling != made(name).ceiling


def test_a_domain_loads_by_name_in_its_own_size() -> None:
    dataset = load_dataset("synthetic:financial-products", seed=0)
    attributes = dataset.user_attributes
    assert (dataset.name, dataset.catalog.num_items, dataset.interactions.num_users) == ("financial-products", 120, 6000)
    assert attributes is not None and attributes.columns == ["user", "stage"] and dataset.ceiling


@pytest.mark.parametrize("name", ["synthetic:", "synthetic:shop", "synthetic:synthetic", "synthetic:E-commerce"])
def test_a_name_that_no_domain_has_is_refused_with_those_there_are(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_dataset(name)
    known = ", ".join(["synthetic", *(f"synthetic:{known}" for known in NAMES)])
    said = str(caught.value)
    assert said.startswith(f"Expected the name of a synthetic set, one of {known}, got {name!r}. ")
    assert said.endswith(("Correct the name.", "?"))  # or a name that is near


@pytest.mark.parametrize("name", NAMES)
def test_a_domains_histories_have_the_promised_form(name: str) -> None:
    domain, frame = DOMAINS[name], made(name).interactions.frame
    lengths = frame.group_by("user").len()["len"].to_numpy()
    assert domain.shortest <= lengths.min() and lengths.max() < 4 * domain.mean_length
    assert abs(lengths.mean() / domain.mean_length - 1) < 0.1
    assert not frame.select("user", "timestamp").is_duplicated().any() and frame["timestamp"].is_sorted()
    assert made(name).interactions.repairs == {}
    assert set(made(name).user_attributes[domain.attribute]) == set(domain.groups)
    if not domain.again_share:
        assert not frame.select("user", "item").is_duplicated().any()


@pytest.mark.parametrize("name", NAMES)
def test_a_text_names_one_circle_and_ends_with_its_categories(name: str) -> None:
    domain, catalog = DOMAINS[name], made(name).catalog
    table = catalog.table
    assert all(set(pair) < set(domain.topics) and len(pair) == 2 for pair in table["categories"].to_list())
    for text, pair in table.select("text", "categories").iter_rows():
        assert text.endswith(". " + " ".join(pair)) and ".." not in text and "{" not in text
    named = [[circle for circle in domain.circles if text.startswith(circle)] for text in catalog.texts]
    assert {len(found) for found in named} == {1}
    assert {[circle for (circle,) in named].count(circle) for circle in domain.circles[:3]} == {domain.circle_size}
    assert len(set(catalog.texts)) > 0.9 * catalog.num_items, "texts tell items apart"
    read_again, repairs = build_catalog(table, table["item"], source="items.csv")
    assert read_again == catalog and not any(repairs.values())


@pytest.mark.parametrize("name", NAMES)
def test_a_domain_has_sequence_signal_below_its_ceiling(name: str) -> None:
    """Counting which circle follows which, item popularity within it, beats popularity; nothing beats the ceiling."""
    result = split(made(name).interactions, made(name).catalog, method="leave-last-out", seed=0)
    train, known = result.histories["train"].to_list(), scoring_histories(result.histories, "test").to_list()
    targets = result.histories["test"].list.first().to_numpy()
    circles = [next(c for c in DOMAINS[name].circles if text.startswith(c)) for text in made(name).catalog.texts]
    circle = np.unique(circles, return_inverse=True)[1]
    popularity = np.bincount(np.concatenate(train), minlength=len(circle)) + 0.1
    pairs = np.zeros((circle.max() + 1,) * 2)
    for history in train:
        np.add.at(pairs, (circle[history[:-1]], circle[history[1:]]), 1)
    lift = (pairs + 1) / (pairs + 1).sum(axis=0) / (pairs + 1).sum(axis=1, keepdims=True)

    def ndcg(scores: np.ndarray) -> float:
        for row, (history, target) in enumerate(zip(known, targets, strict=True)):
            scores[row, [item for item in history if item != target]] = -np.inf
        ranks = 1 + (scores > scores[np.arange(len(targets)), targets][:, None]).sum(axis=1)
        return float(np.where(ranks <= 10, 1 / np.log2(ranks + 1), 0).mean())

    by_popularity = ndcg(np.tile(popularity, (len(targets), 1)))
    by_circle = ndcg(popularity * lift[circle[[history[-1] for history in known]]][:, circle])
    assert 1.2 * by_popularity < by_circle < made(name).ceiling["ndcg@10"]
    assert 0.2 < made(name).ceiling["ndcg@10"] < made(name).ceiling["hr@10"] < 0.8


def slow_probability(of: worlds.World, interest: list[float], path: list[int], now: int) -> list[float]:
    """The documented formula item by item, with what is open; shares no code with it."""
    domain, num_items = of.domain, len(of.circle)
    open_items = []
    for item in range(num_items):
        if domain.levels:
            below = [
                other for other in path
                if of.topics[other][0] == of.topics[item][0] and of.levels[other] >= of.levels[item] - 1
            ]  # fmt: skip
            open_items.append(1.0 if of.levels[item] == 0 or below else 0.0)
        elif domain.lifetime_days:
            age = now - of.published[item]
            open_items.append(0.0 if age < 0 else 1.0 if age <= domain.lifetime_days * 86_400 else 0.02)
        else:
            open_items.append(1.0)
    liked = [
        sum(i * p[item] for i, p in zip(interest, of.item_given_topic, strict=True)) * open_items[item]
        for item in range(num_items)
    ]
    shares = list(zip(path[::-1], (domain.last_share, domain.before_share), strict=False))
    total = [(1 - sum(share for _, share in shares)) * value / sum(liked) for value in liked]
    harmonic = sum(1 / (place + 1) for place in range(domain.circle_size))
    for previous, share in shares:
        for place, follower in enumerate(of.followers[of.circle[previous]]):
            total[follower] += share / (place + 1) / harmonic * open_items[follower]
    return total


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("path", [[], [3], [7, 3, 40, 12, 90]])
def test_scores_follow_the_documented_formula_of_what_is_open(name: str, path: list[int]) -> None:
    shared = world(name)
    interest = np.random.default_rng(2).dirichlet(np.ones(len(shared.domain.topics)))
    now = worlds.START_SECONDS + 40 * 86_400
    had = np.array([path], dtype=np.int64).reshape(1, -1)
    open_items = worlds.openness(shared, had, np.array([now]))
    scores = worlds.next_scores(shared, interest[None], had[:, -2:], open_items)[0]
    assert np.allclose(scores, slow_probability(shared, interest.tolist(), path, now))


def test_a_shops_customers_buy_again_but_what_is_held_out_is_new() -> None:
    again = steps("e-commerce").with_columns(again=~pl.struct("user", "row").is_first_distinct())
    last_two = pl.col("place") >= pl.col("length") - 2
    assert again.filter(last_two)["again"].sum() == 0
    share = again.filter(~last_two & (pl.col("place") > 0))["again"].mean()
    assert share == pytest.approx(DOMAINS["e-commerce"].again_share, abs=0.02)


def test_prices_are_log_normal_around_their_departments_median() -> None:
    """Null: log price ~ N(log median, 0.5), 600 items; both moments stay within 5 standard errors (1e-6)."""
    domain, table = DOMAINS["e-commerce"], made("e-commerce").catalog.table
    medians = np.array([domain.prices[pair[0]] for pair in table["categories"]])
    logs = np.log(table["price"].to_numpy() / medians) / 0.5
    assert abs(logs.mean()) < 5 / np.sqrt(600) and abs(logs.std() - 1) < 5 / np.sqrt(1200)
    assert len(set(domain.prices.values())) > 5 and set(domain.prices) == set(domain.topics)
    assert all("price" not in made(name).catalog.table.columns for name in NAMES if not DOMAINS[name].prices)


def test_nobody_reads_a_story_before_it_is_out_and_few_after_it() -> None:
    shared_rng = np.random.default_rng(np.random.SeedSequence(3).spawn(2)[0])
    domain = DOMAINS["content"]
    published = worlds.draw_world(domain.num_items, shared_rng, domain).published
    read = steps("content")
    ages = read["timestamp"].to_numpy() - published[read["row"].to_numpy()]
    assert ages.min() >= 0
    assert (ages <= domain.lifetime_days * 86_400).mean() > 0.8


def test_a_course_follows_one_of_the_level_below_in_its_topic() -> None:
    shared_rng = np.random.default_rng(np.random.SeedSequence(3).spawn(2)[0])
    domain = DOMAINS["education"]
    shared = worlds.draw_world(domain.num_items, shared_rng, domain)
    levels = [
        domain.levels.index(next(word for word in domain.levels if word in text)) for text in made("education").catalog.texts
    ]
    assert levels == shared.levels.tolist(), "texts say the level"
    assert np.bincount(levels).min() > 0.25 * domain.num_items
    for (_,), history in steps("education").group_by("user"):
        reached: dict[int, int] = {}
        for row in history["row"]:
            topic = int(shared.topics[row, 0])
            assert levels[row] <= reached.get(topic, 0)
            reached[topic] = max(reached.get(topic, 0), levels[row] + 1)


def share_of(name: str, group: str, topics: tuple[str, ...], *, late: bool) -> float:
    """How much of what a group's users met first, or last, has one of some topics first among its categories."""
    first_topic = np.array([pair[0] for pair in made(name).catalog.table["categories"]])
    table = steps(name).join(made(name).user_attributes, on="user")
    place = pl.col("length") - 1 if late else 0
    chosen = table.filter((pl.col("place") == place) & (pl.col(DOMAINS[name].attribute) == group))
    return float(np.isin(first_topic[chosen["row"]], topics).mean())


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_customers_of_a_bank_grow_into_the_next_stage_of_life(stage: int) -> None:
    domain = DOMAINS["financial-products"]
    new = tuple(set(domain.stages[stage + 1]) - set(domain.stages[stage]))
    early, late = (share_of("financial-products", domain.groups[stage], new, late=late) for late in (False, True))
    assert late > early + 0.1


def test_hospitals_are_as_large_as_their_weights_and_see_different_conditions() -> None:
    domain: Domain = DOMAINS["medical-consultation"]
    counts: Any = made("medical-consultation").user_attributes["hospital"].value_counts()
    sizes = dict(counts.iter_rows())
    assert [sizes[group] / 600 for group in domain.groups] == pytest.approx([0.5, 0.3, 0.2], abs=0.06)
    for topic in domain.topics:
        shares = [share_of(domain.name, group, (topic,), late=False) for group in domain.groups]
        if max(shares) > min(shares) + 0.15:
            return
    raise AssertionError("no specialty is commoner in one hospital than in another")


@pytest.mark.parametrize("name", NAMES)
def test_sizes_of_a_domain_out_of_range_are_refused(name: str) -> None:
    least = DOMAINS[name].shortest + 3
    with pytest.raises(ConfigError) as caught:
        synthetic.generate(DOMAINS[name], num_items=60, mean_length=least - 1)
    assert str(caught.value) == (
        f"Expected mean_length in [{least}, num_items/4], got mean_length={least - 1}, num_items=60. "
        "Use a length in between."
    )
