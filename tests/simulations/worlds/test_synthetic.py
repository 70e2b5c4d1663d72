import hashlib
from functools import cache

import numpy as np
import polars as pl
import pytest

from shared.data.splitting import scoring_histories, split
from shared.errors import ConfigError
from simulations.datasets import load_dataset
from simulations.worlds import domains, synthetic, vocabularies, worlds


@cache
def made() -> synthetic.SyntheticSet:
    return synthetic.generate(seed=0)


def digest(made: synthetic.SyntheticSet) -> str:
    """Over every value of the interactions and attributes, however they are stored."""
    columns = [*made.interactions.frame.get_columns(), *made.user_attributes.get_columns()]
    told = "|".join(",".join(map(str, [column.name, *column.to_list()])) for column in columns)
    return hashlib.sha256(told.encode()).hexdigest()


def small_world() -> worlds.World:
    return worlds.draw_world(60, np.random.default_rng(1))


def slow_next_probability(world: worlds.World, interest: list[float], path: list[int]) -> list[float]:
    """The formula of the module's docstring, item by item; shares no code with it."""
    num_items = world.item_given_topic.shape[1]
    shares = list(zip(path[::-1], (0.35, 0.06), strict=False))
    total = [
        (1 - sum(share for _, share in shares))
        * sum(i * p[item] for i, p in zip(interest, world.item_given_topic, strict=True))
        for item in range(num_items)
    ]
    harmonic = sum(1 / (place + 1) for place in range(20))
    for previous, share in shares:
        for place, follower in enumerate(world.followers[world.circle[previous]]):
            total[follower] += share / (place + 1) / harmonic
    return [0.0 if item in path else total[item] for item in range(num_items)]


def test_synthetic_set_is_a_function_of_its_seed() -> None:
    again, other = synthetic.generate(seed=0), synthetic.generate(seed=1)
    assert again.interactions.frame.equals(made().interactions.frame)
    assert again.catalog == made().catalog and again.ceiling == made().ceiling
    assert other.catalog.digest != made().catalog.digest and other.ceiling != made().ceiling


def test_the_embedded_set_stays_the_one_that_documented_numbers_were_measured_on() -> None:
    """What `make demo` prints depends on every bit of it."""
    assert made().catalog.digest == "2d357ff99e57f0ee6e68c7c31be138779c7786d078bb28c6daeaaa14765766b1"
    assert digest(made()) == "bff806ee081ebc19ea1604162049cd1e66149ff9bec4bd47069c13fd3d248705"
    assert made().ceiling == {"hr@10": 0.427, "ndcg@10": 0.25029530026780705}


def test_synthetic_set_has_the_promised_form() -> None:
    frame = made().interactions.frame
    lengths = frame.group_by("user").len()["len"]
    assert (frame["user"].n_unique(), made().catalog.num_items) == (3000, 600)
    assert int(lengths.min() or 0) >= 5 and 14 <= float(lengths.mean() or 0) <= 18  # type: ignore[arg-type]
    assert not frame.select("user", "item").is_duplicated().any(), "an item is met once a user at most"
    assert not frame.select("user", "timestamp").is_duplicated().any(), "no ties in time"
    assert frame["timestamp"].is_sorted() and made().interactions.repairs == {}
    assert made().user_attributes["user"].n_unique() == 3000
    assert set(made().user_attributes["region"]) == set(domains.REGIONS)
    assert all(text and text != item for item, text in zip(made().catalog.ids, made().catalog.texts, strict=True))


def test_synthetic_set_loads_by_name_and_refuses_what_does_not_fit_it() -> None:
    dataset = load_dataset("synthetic", seed=0)
    assert dataset.ceiling == made().ceiling and dataset.catalog == made().catalog
    for options in ({"columns": "user=a"}, {"format": "recbole"}):
        with pytest.raises(ConfigError, match=r"^The synthetic set has one format and no columns to map\."):
            load_dataset("synthetic", **options)
    with pytest.raises(ConfigError, match=r"Expected data='synthetic' with data\.format='synthetic', got data='x'"):
        load_dataset("x", format="synthetic")


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"num_users": 0}, "Expected num_users >= 1, got num_users=0."),
        ({"num_items": 49}, "Expected num_items >= 50, got num_items=49."),
        (
            {"mean_length": 200.0},
            "Expected mean_length in [8, num_items/4], got mean_length=200.0, num_items=600.",
        ),
    ],
)
def test_sizes_out_of_range_are_refused(sizes: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        synthetic.generate(**sizes)  # type: ignore[arg-type]
    assert str(caught.value).startswith(message)


def test_other_sizes_can_be_generated() -> None:
    made = synthetic.generate(num_users=30, num_items=61, mean_length=9, seed=5)
    assert made.interactions.num_users == 30 and made.catalog.num_items == 61


def test_the_world_is_a_set_of_distributions_and_hidden_circles() -> None:
    world = worlds.draw_world(61, np.random.default_rng(1))
    assert np.allclose(world.item_given_topic.sum(axis=1), 1) and np.isclose(world.follower_weights.sum(), 1)
    assert np.bincount(world.circle).tolist() == [20] * 3 + [1]
    assert all(len(set(row)) == 20 for row in world.followers.tolist())
    # The followers of circle 0 are the members of circle 1, and so on.
    for circle in range(2):
        assert set(world.followers[circle]) == set(np.flatnonzero(world.circle == circle + 1))


@pytest.mark.parametrize("path", [[], [3], [3, 40], [7, 3, 40, 12]])
def test_scores_of_the_next_item_follow_the_documented_formula(path: list[int]) -> None:
    world = small_world()
    interest = np.random.default_rng(2).dirichlet(np.ones(len(vocabularies.TOPICS)))
    scores = worlds.next_scores(world, interest[None], np.asarray([path[-2:]], dtype=np.int64).reshape(1, -1))[0]
    assert np.isclose(scores.sum(), 1)
    scores[path] = 0
    assert np.allclose(scores, slow_next_probability(world, interest.tolist(), path))


def test_items_are_drawn_from_the_documented_distribution_and_never_twice() -> None:
    """Null: the 3rd item of a user has the documented p, given the first two. n = 4000 users.

    Statistic: the mean of p at the drawn item over its maximum; under the null its expectation is
    sum p^2 / max p, and 6 standard errors are allowed (false alarm below 1e-8). The control, items
    scored by the p of another world, must fall outside.
    """
    world, control = small_world(), worlds.draw_world(60, np.random.default_rng(99))
    rng = np.random.default_rng(4)
    first, last = rng.dirichlet(np.ones(12), size=(2, 4000))
    paths = worlds.draw_paths(world, np.stack([first, last]), np.full(4000, 3), rng)
    assert all(len(set(row)) == 3 for row in paths.items.tolist())

    def deviation(judge: worlds.World) -> float:
        gaps = []
        for user in range(0, 4000, 4):
            p = np.asarray(slow_next_probability(judge, last[user].tolist(), paths.items[user, :2].tolist()))
            p /= p.sum()
            gaps.append((p[paths.items[user, 2]] - (p**2).sum()) / p.max())
        return float(abs(np.mean(gaps)) / (np.std(gaps) / np.sqrt(len(gaps))))

    assert deviation(world) < 6 < deviation(control)


def test_the_ceiling_is_the_score_of_the_true_ranking() -> None:
    paths = worlds.Paths(
        items=np.array([[5, 0], [4, 1], [3, 2]]),
        lengths=np.array([2, 2, 2]),
        last_scores=np.stack([np.r_[0.5, 0.1, 0.2, np.zeros(9)], np.r_[0.5, 0.4, np.zeros(10)], np.arange(12.0)[::-1]]),
    )
    assert synthetic._rank_of_last(paths).tolist() == [1, 2, 3]
    expected = (1 + 1 / np.log2(3) + 1 / np.log2(4)) / 3
    assert synthetic._ceiling([paths]) == {"hr@10": 1.0, "ndcg@10": pytest.approx(expected)}
    paths.last_scores[1, 2:] = 0.45
    assert synthetic._ceiling([paths])["hr@10"] == pytest.approx(2 / 3)


def test_sequence_signal_beats_popularity_and_stays_below_the_ceiling() -> None:
    dataset = made()
    result = split(dataset.interactions, dataset.catalog, method="leave-last-out", seed=0)
    histories, num_items = result.histories, dataset.catalog.num_items
    train, known = histories["train"].to_list(), scoring_histories(histories, "test").to_list()
    targets = histories["test"].list.first().to_numpy()
    popularity = np.bincount(np.concatenate(train), minlength=num_items).astype(float)
    pairs = np.zeros((num_items, num_items))
    for history in train:
        np.add.at(pairs, (history[:-1], history[1:]), 1)
    markov = (pairs + 5 * popularity / popularity.sum()) / (pairs.sum(axis=1, keepdims=True) + 5)

    def ndcg(scores: np.ndarray) -> float:
        for row, history in enumerate(known):
            scores[row, history] = -np.inf
        ranks = 1 + (scores > scores[np.arange(len(targets)), targets][:, None]).sum(axis=1)
        return float(np.where(ranks <= 10, 1 / np.log2(ranks + 1), 0).mean())

    by_popularity = ndcg(np.tile(popularity, (len(targets), 1)))
    by_markov = ndcg(markov[[history[-1] for history in known]])
    assert 2 * by_popularity < by_markov < dataset.ceiling["ndcg@10"]
    assert 0.2 < dataset.ceiling["ndcg@10"] < dataset.ceiling["hr@10"] < 0.7


def test_a_text_names_its_circle_and_no_other() -> None:
    makers = [text.split(":")[0] for text in made().catalog.texts]
    sizes = {maker: makers.count(maker) for maker in set(makers)}
    assert set(sizes.values()) == {20}
    assert all(maker in text.split(". ")[1] for maker, text in zip(makers, made().catalog.texts, strict=True))


def test_regions_differ_in_what_their_users_like() -> None:
    """Cramer's V of region and topic (as the text names it) is far above what independence allows."""
    topics = pl.DataFrame(
        {"item": made().catalog.ids, "topic": [t.split(", ")[1].split(" and ")[0] for t in made().catalog.texts]}
    )
    table = made().interactions.frame.join(topics, on="item").join(made().user_attributes, on="user")
    counts = table.pivot("topic", index="region", values="item", aggregate_function="len").drop("region").to_numpy()
    expected = counts.sum(axis=1, keepdims=True) * counts.sum(axis=0) / counts.sum()
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    assert np.sqrt(chi_squared / counts.sum() / 4) > 0.1
