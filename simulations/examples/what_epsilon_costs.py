"""What epsilon costs: what a bound means, how much noise it takes, and what it leaves of the quality.

Half a minute on the embedded data. The runs release noised statistics and train nothing, so that they end soon; for whole
runs with intervals over seeds, and for your own data, use `tacit.frontier`.
"""

import math

import tacit

SMALL = {
    "model.layers": 1,
    "model.max_history_length": 5,
    "statistics.releases": "pairs,transitions",
    "evaluation.bootstrap_replicates": 50,
}

# First without running anything: what a plan promises, for a population of your own.
for epsilon in (0.5, 2, 8):
    facts = tacit.plan(num_users=100_000, epsilon=epsilon, rounds=0, clients=20)
    claim = next(claim for claim in facts["claims"] if claim["adversary"] == facts["adversary"])
    print(f"epsilon {epsilon}: noise multiplier {facts['noise']['noise_multiplier']:.2f}")
    print(f"   {claim['statement']}")

# Then measured, on 3,000 synthetic users in four silos: the same run with less and less noise.
runs = []
for epsilon in (1, 8, math.inf):
    run = tacit.simulate(epsilon=epsilon, rounds=0, settings=SMALL, evaluation__baselines="none")
    estimate = run.metrics["ndcg@10"]
    print(f"epsilon {epsilon}: NDCG@10 {estimate['mean']:.4f} [{estimate['low']:.4f}, {estimate['high']:.4f}]")
    runs.append(run)

# The same users are in all runs, so that differences are paired. NOT PRIVATE: exact metrics, and each run spends anew.
print(tacit.compare(*runs).select("epsilon", "ndcg@10", "ndcg@10.difference", "ndcg@10.difference.p_value"))
