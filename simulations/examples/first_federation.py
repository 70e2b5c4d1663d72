"""A first private federation: four silos train a recommender together, and nobody shows a history to anybody.

Half a minute on the embedded data, which is synthetic; the settings are small so that it ends soon.
"""

import tacit


def show_round(row: dict[str, object]) -> None:
    """Prints what was measured after a round; exact, hence NOT PRIVATE."""
    print(f"round {row['round_number']}: {row['validation']}")


# 3,000 users in 4 silos. Each silo clips and noises its own training; the server sees noised updates alone.
run = tacit.simulate(
    "synthetic",
    epsilon=8,
    clients=4,
    rounds=1,
    settings={"model.layers": 1, "model.max_history_length": 5, "training.local_steps": 1},
    evaluation__bootstrap_replicates=50,
    progress=show_round,
)
print(run, "\n")

# What is promised to whom: a bound for each adversary, or why there is none.
for claim in run.claims:
    print(f"{claim['who']}: {claim['statement']}\n")

# What it is worth: the released recommender beside baselines without any privacy.
print(f"NDCG@10 of this run {run.metrics['ndcg@10']['mean']:.4f}")
for baseline in run.baselines.values():
    print(f"NDCG@10 of {baseline.label} {baseline.metrics['ndcg@10']['mean']:.4f}")

# Ask it. The history may be of somebody who was never in the training data.
recommender = run.recommender()
history = list(recommender.items[:3])
print("\nHistory:")
for text in recommender.texts[:3]:
    print(f"   {text}")
print("Recommended:")
for place in recommender.recommend(history, k=5):
    print(f"{place.rank}. {place.text}")

print(f"\nPicture: {run.plot()}")
print(f"Report: {run.folder / 'report.html'}")
