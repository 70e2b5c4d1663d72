"""The peers that the benchmarks measure against: the stock Flower app is a real one and does its work, ratios are honest."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from simulations.benchmarks import against_flower, against_pfl
from simulations.benchmarks.against_flower import Rates
from simulations.benchmarks.stock_flower import client_app, server_app, task
from tests import running

LEARNING_RATE = 0.5
# No gradient of the tiny model is longer than the second, and every one is longer than the first.
TIGHT, LOOSE = 0.05, 1e6


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, tiny_bert: str) -> str:
    """Thirty users on the tiny backbone; every history fits the model, so that windows are not random."""
    data = running.write_interactions(tmp_path_factory.mktemp("peers") / "interactions.csv")
    values = {
        "data.path": str(data),
        "model.backbone": tiny_bert,
        "model.max_history_length": 12,
        "adapter.kind": "ffa",
        "adapter.rank": 2,
        "adapter.output_rank": 2,
        "adapter.head_rank": 2,
        "run.device": "cpu",
    }
    return json.dumps(values)


def _vector(weights: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([weight.double().flatten() for weight in weights.values()])


def _update(settings: str, user: int, **privacy: float) -> torch.Tensor:
    """New weights minus the initial ones after one step of the stock app."""
    model = task.load_model(settings)
    initial = _initial(settings)
    task.set_weights(model, initial)
    task.train(model, task.load_data(settings, user), learning_rate=LEARNING_RATE, **privacy)
    return _vector(task.get_weights(model)) - _vector(initial)


def _initial(settings: str) -> dict[str, torch.Tensor]:
    """Weights as far from zero as those of a run under way: at the start most gradients of a product are 0."""
    generator = torch.Generator().manual_seed(3)
    model = task.load_model(settings)
    return {
        name: torch.randn(weight.shape, generator=generator) * 0.3
        for name, weight in sorted(task.get_weights(model).items())
    }


def _clipped_gradient(settings: str, user: int, bound: float) -> torch.Tensor:
    """The oracle: plain backpropagation of the user's mean loss, position by position, then the definition of clipping."""
    recommender = task.load_model(settings)
    task.set_weights(recommender, _initial(settings))
    ((inputs, targets),) = list(task.load_data(settings, user))
    logits = recommender.attached.model(inputs)[0]
    losses = [torch.logsumexp(row, dim=0) - row[item] for row, item in zip(logits, targets[0], strict=True)]
    gradients = torch.autograd.grad(sum(losses) / len(losses), recommender.attached.parameters)
    flat = torch.cat([gradient.double().flatten() for gradient in gradients])
    return flat * min(1.0, bound / float(flat.norm()))


@pytest.mark.parametrize("bound", [TIGHT, LOOSE])
def test_the_stock_step_is_the_users_gradient_clipped_when_there_is_no_noise(settings: str, bound: float) -> None:
    expected = _clipped_gradient(settings, 4, bound)
    assert (float(expected.norm()) < 0.99 * bound) == (bound == LOOSE)  # one bound clips and the other does not
    update = _update(settings, 4, max_grad_norm=bound, noise_multiplier=0.0)
    # Opacus adds 1e-6 to a norm before it divides, and weights of size 0.3 are float32.
    assert float((update + LEARNING_RATE * expected).norm()) < 1e-4 * LEARNING_RATE * float(expected.norm())


def test_the_stock_step_adds_noise_of_the_deviation_that_it_is_told(settings: str) -> None:
    """Null: update minus noise-free update is normal, mean 0, deviation lr * noise_multiplier * bound, independent.

    The squares' sum over deviation squared is then chi-square with n degrees of freedom, n >= 2,000 coordinates of
    independent steps; the test is two-sided at 1e-6, so it fails by chance once in a million runs. A deviation of 2/3 or 3/2
    moves the statistic by more than 15 of its own deviations and is always noticed: the negative controls.
    """
    bound, multiplier = 0.1, 2.0
    exact = _update(settings, 2, max_grad_norm=bound, noise_multiplier=0.0)
    steps = -(-2_000 // len(exact))

    def p_value(used: float) -> float:
        noise = torch.cat(
            [_update(settings, 2, max_grad_norm=bound, noise_multiplier=used) - exact for _ in range(steps)]
        ).numpy()
        below = stats.chi2.cdf(np.sum((noise / (LEARNING_RATE * multiplier * bound)) ** 2), df=len(noise))
        return 2 * min(below, 1 - below)

    assert p_value(multiplier) > 1e-6
    assert p_value(multiplier * 2 / 3) < 1e-6
    assert p_value(multiplier * 3 / 2) < 1e-6


def test_the_model_that_stays_in_an_actor_keeps_no_hooks_of_a_finished_step(settings: str) -> None:
    _update(settings, 0, max_grad_norm=TIGHT, noise_multiplier=0.0)
    model = task.load_model(settings).attached.model
    assert not any(module._forward_hooks or module._backward_hooks for module in model.modules())
    assert not any(hasattr(parameter, "grad_sample") for parameter in model.parameters())


def test_a_stock_example_is_a_window_of_the_history_with_the_items_that_follow() -> None:
    user = task.OneUser(np.arange(20), length=5)
    starts = set()
    for _ in range(1_000):  # a start out of 15 is missed once in 10^29 runs
        inputs, targets = user[0]
        assert len(inputs) == 5
        assert torch.equal(targets, inputs + 1)
        assert torch.equal(inputs, torch.arange(int(inputs[0]), int(inputs[0]) + 5))
        starts.add(int(inputs[0]))
    assert starts == set(range(15))
    assert [part.tolist() for part in task.OneUser(np.array([7, 3, 9]), length=5)[0]] == [[7, 3], [3, 9]]


def _stock_report(settings: str, folder: Path, *, cohort: int) -> Any:
    """One round of the stock app, without noise, through Flower's messages but without Ray."""
    task.set_weights(task.load_model(settings), _initial(settings))
    config = {"task": settings, "cohort": cohort, "num-server-rounds": 1, "lr": LEARNING_RATE}
    config |= {"max-grad-norm": TIGHT, "noise-multiplier": 0.0, "report": str(folder / "report.json")}
    running.run_in_process(server_app.app, client_app.app, num_nodes=task.num_users(settings), run_config=config)
    return json.loads((folder / "report.json").read_text())


def test_a_round_of_the_stock_app_moves_the_adapter_by_the_mean_of_its_clients_clipped_gradients(
    settings: str, tmp_path: Path
) -> None:
    users = task.num_users(settings)
    report = _stock_report(settings, tmp_path, cohort=users)
    expected = torch.stack([_clipped_gradient(settings, user, TIGHT) for user in range(users)]).mean(dim=0).norm()
    assert users == 30
    assert len(report["round_ends"]) == 2
    assert report["moved"] == pytest.approx(LEARNING_RATE * float(expected), rel=2e-3)


@pytest.mark.parametrize("cohort", [1, 7, 30])
def test_the_stock_app_asks_exactly_its_cohort(settings: str, tmp_path: Path, cohort: int) -> None:
    assert _stock_report(settings, tmp_path, cohort=cohort)["answered"] == [cohort]


def test_rates_count_rounds_two_and_on_apart_from_the_whole_process() -> None:
    rates = Rates.of([64, 60, 70], [9.0, 1.0, 1.6], total_seconds=19.4)
    assert rates.after_startup == pytest.approx(130 / 2.6)
    assert rates.with_startup == pytest.approx(194 / 19.4)
    assert (rates.startup_seconds, rates.total_seconds) == (pytest.approx(16.8), 19.4)


def test_our_rates_come_from_the_finished_rounds_in_the_servers_events(tmp_path: Path) -> None:
    events: list[dict[str, Any]] = [{"event": "started", "finished": 0}]
    for round_number, answered, taken in [(1, 50, 5.0), (2, 40, 2.0)]:
        events.append({"event": "asked", "purpose": "train", "round_number": round_number})
        events.append({"event": "round", "round_number": round_number, "clients_answered": answered, "seconds": taken})
    (tmp_path / "events.jsonl").write_text("\n".join(json.dumps(event) for event in events) + "\n")
    rates = against_flower.our_rates(tmp_path / "events.jsonl", total_seconds=15.0)
    assert (rates.after_startup, rates.with_startup) == (20.0, 6.0)


def test_stock_rates_come_from_the_times_at_which_rounds_ended() -> None:
    report = {"answered": [8, 8, 8], "round_ends": [100.0, 110.0, 112.0, 116.0], "moved": 0.1}
    rates = against_flower.stock_rates(report, cohort=8, total_seconds=24.0)
    assert (rates.after_startup, rates.with_startup, rates.startup_seconds) == (16 / 6, 1.0, 18.0)


@pytest.mark.parametrize("wrong", [{"answered": [8, 7]}, {"moved": None}, {"moved": 0.0}])
def test_a_stock_run_that_lost_clients_or_learned_nothing_is_not_measured(wrong: dict[str, Any]) -> None:
    report = {"answered": [8, 8], "round_ends": [0.0, 1.0, 2.0], "moved": 0.1, **wrong}
    with pytest.raises(
        SystemExit, match="Expected 8 answers in every round of the stock app and a finite adapter that moved"
    ):
        against_flower.stock_rates(report, cohort=8, total_seconds=3.0)


PAIRS = [
    (Rates(30.0, 8.0, 1.0, 2.0), Rates(10.0, 1.0, 9.0, 9.0)),
    (Rates(10.0, 6.0, 1.0, 2.0), Rates(5.0, 2.0, 9.0, 9.0)),
]


def test_speedups_are_ratios_of_runs_of_the_same_pair() -> None:
    pairs = [
        (Rates(30.0, 8.0, 1.0, 2.0), Rates(10.0, 1.0, 9.0, 9.0)),
        (Rates(10.0, 6.0, 1.0, 2.0), Rates(5.0, 2.0, 9.0, 9.0)),
    ]
    found = against_flower.speedups(pairs)
    after, whole = found["speedup_over_stock_flower"], found["speedup_over_stock_flower_with_startup"]
    assert (after.median, after.low, after.high) == (2.5, 2.0, 3.0)
    assert (whole.median, whole.low, whole.high) == (5.5, 3.0, 8.0)


def test_pairs_take_turns_in_going_first() -> None:
    calls: list[str] = []

    def side(name: str) -> Callable[[int], Rates]:
        def run(rounds: int) -> Rates:
            calls.append(f"{name}{rounds}")
            return Rates(len(calls), 1.0, 1.0, 1.0)

        return run

    pairs = against_flower.in_turns(side("ours"), side("stock"), repeats=2, rounds=7)
    assert calls == ["ours7", "stock7", "stock7", "ours7"]
    assert [(ours.after_startup, stock.after_startup) for ours, stock in pairs] == [(1, 2), (4, 3)]


def _main(benchmark: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["benchmark", *arguments])
    benchmark.main()
    return capsys.readouterr().out


def test_the_benchmark_against_flower_says_that_it_was_not_measured_when_there_is_no_data(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    said = _main(against_flower, capsys, monkeypatch, "--data", str(tmp_path / "ml-100k"))
    assert said == "against_flower: not measured, there is nothing at ml-100k. Give --data PATH, or 'synthetic'.\n"


def _small(settings: str) -> Any:
    """Options of the benchmark, for two rounds on the thirty users."""
    arguments = ["--data", json.loads(settings)["data.path"], "--cohort", "6", "--rounds", "2"]
    return against_flower.parse(arguments)


def test_the_record_against_flower_holds_the_speedups_and_what_was_measured_on(settings: str) -> None:
    record = against_flower.record_of(PAIRS, json.loads(settings), _small(settings))
    record = json.loads(json.dumps({key: against_flower.as_json(value) for key, value in record.items()}))
    assert record["speedup_over_stock_flower"] == {"median": 2.5, "low": 2.0, "high": 3.0}
    assert record["speedup_over_stock_flower_with_startup"] == {"median": 5.5, "low": 3.0, "high": 8.0}
    assert record["stock_flower"]["after_startup"] == {"median": 7.5, "low": 5.0, "high": 10.0}
    assert record["ours"]["with_startup"] == {"median": 7.0, "low": 6.0, "high": 8.0}
    assert (record["users"], record["cohort"], record["repeats"], record["cores"]) == (30, 6, 2, 2)


def test_one_round_is_refused_because_it_is_all_start_up(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        against_flower.parse(["--rounds", "1"])
    assert "Expected --rounds >= 2, got --rounds=1." in capsys.readouterr().err


@pytest.mark.soak
def test_our_side_against_flower_trains_every_user_as_a_client_and_evaluates_nothing(settings: str) -> None:
    rates = against_flower.our_run(json.loads(settings), _small(settings), rounds=2)
    updates, later = _updates(rates)
    assert 0 <= later <= updates <= 2 * 30
    assert updates


@pytest.mark.soak
@pytest.mark.ray
def test_the_stock_app_runs_on_ray_with_an_answer_from_everyone_and_a_finite_adapter_that_moved(settings: str) -> None:
    rates = against_flower.stock_run(json.loads(settings), _small(settings), rounds=2)
    assert _updates(rates) == (12, 6)


def _updates(rates: against_flower.Rates) -> tuple[int, int]:
    """Updates in all, and in the rounds after the first: a rate times its seconds, however fast the machine is."""
    both = rates.with_startup * rates.total_seconds, rates.after_startup * (rates.total_seconds - rates.startup_seconds)
    numbers = tuple(round(number) for number in both)
    assert both == pytest.approx(numbers, abs=1e-6)
    return numbers[0], numbers[1]


def test_rows_of_the_benchmark_against_pfl_rotate_and_the_first_turn_is_not_counted() -> None:
    calls: list[str] = []

    def row(name: str) -> tuple[str, Callable[[int, int], float]]:
        def measure(clients: int, floats: int) -> float:
            calls.append(name)
            return float(len(calls) * clients + floats)

        return name, measure

    times = against_pfl.in_turns([row("a"), row("b")], clients=10, floats=3, repeats=2)
    assert calls == ["a", "b", "b", "a", "a", "b"]
    assert times == {"a": [43.0, 53.0], "b": [33.0, 63.0]}


def test_ratios_to_pfl_are_of_times_from_the_same_turn_and_none_when_it_was_not_measured() -> None:
    times = {"ours": [1.0, 6.0], "pfl": [2.0, 3.0]}
    ratios = against_pfl.ratios_to(times, "pfl")
    assert set(ratios) == {"ours"}
    assert (ratios["ours"].low, ratios["ours"].median, ratios["ours"].high) == (0.5, 1.25, 2.0)
    assert against_pfl.ratios_to({"ours": [1.0]}, "pfl") == {}


@pytest.mark.skipif(against_pfl.pfl_version() is not None, reason="pfl is installed")
def test_the_benchmark_against_pfl_says_how_to_get_pfl_and_measures_the_rest_when_it_is_absent(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("--repeats", "1", "--clients", "5", "--floats", "100")
    *_, last = _main(against_pfl, capsys, monkeypatch, *arguments).splitlines()
    assert last.startswith("pfl: not measured, it is not installed. To measure it: pip install --no-deps pfl==0.6.0 ")
    record = json.loads(_main(against_pfl, capsys, monkeypatch, *arguments, "--json"))
    assert "pfl" not in record["milliseconds_a_client"]
    assert record["milliseconds_a_client"]["in-process grid"]["median"] > 0
    assert (record["not_measured"], record["ratio_to_pfl"]) == (last, {})


@pytest.mark.skipif(against_pfl.pfl_version() is None, reason="pfl is not installed")
def test_a_client_of_pfl_takes_longer_than_its_arithmetic() -> None:
    clients, floats = 100, 102_400
    assert against_pfl.pfl_client(clients, floats) > against_pfl.plain_step(clients, floats) > 0
