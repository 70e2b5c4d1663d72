"""A run as a plain transformers model: the card's own code gives the run's scores, and says no more than the run did."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import load_file
from transformers import AutoModel, AutoTokenizer

from server.export import export
from shared import wording
from shared.artifact import load_recommender
from shared.errors import CheckpointError, ConfigError, TacitError
from shared.model import adapter as lora
from shared.run_folder import load_catalog
from simulations.simulate import simulate
from tests import rounding, running
from tests.running import FinishedRun, settings

# The same each time: how much rounding a model enlarges rests on the weights that it was trained to.
NO_PRIVACY = {"privacy__epsilon": float("inf"), "adapter__kind": "lora", "training__learning_rate": 0.3,
              "run__reproducible": True}  # fmt: skip
HISTORIES: list[list[str]] = [["thing-1", "thing-5", "thing-2"], ["thing-0"], [f"thing-{n % 15}" for n in range(30)], []]
_DUMP = """
import sys
import numpy
assert not {"shared", "client", "server", "simulations", "peft", "flwr"} & set(sys.modules)
numpy.save(sys.argv[1], numpy.stack([score(history).numpy() for history in json.loads(sys.argv[2])]))
"""


def _simulated(folder: Path, backbone: str, **changes: object) -> Path:
    data = running.write_interactions(folder / "interactions.csv")
    simulate(settings(data, backbone, **changes), folder / "run", quiet=True)
    return folder / "run"


def _code(destination: Path) -> str:
    (block,) = re.findall(r"```python\n(.*?)```", (destination / "README.md").read_text("utf-8"), flags=re.DOTALL)
    return str(block)


def _scores_by_the_card(destination: Path, tmp_path: Path) -> np.ndarray:
    """Runs the card's code in a process that cannot import Tacit."""
    (tmp_path / "code.py").write_text(_code(destination) + _DUMP)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-P", str(tmp_path / "code.py"), str(tmp_path / "scores.npy"), json.dumps(HISTORIES)],
        cwd=destination, env={**environment, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 10
    assert done.stdout.startswith("thing-")
    return np.load(tmp_path / "scores.npy")


def _scores_of_the_run(run: Path, rank: int | None = None) -> np.ndarray:
    recommender = load_recommender(run)
    if rank is not None:  # by another decomposition, unbalanced
        vector = recommender.attached.to_vector()
        for pair in recommender.attached.pairs:
            b, a = pair.factors(vector)
            u, values, v = np.linalg.svd(b @ a, full_matrices=False)
            b[:], a[:] = 0.0, 0.0
            b[:, :rank], a[:rank] = (u * values)[:, :rank], v[:rank]
            pair.put(vector, b, a)
        recommender.attached.load_vector(vector)
    row_of = load_catalog(run).row_of
    return recommender.score([np.array([row_of[item] for item in history], dtype=np.int32) for history in HISTORIES])


RUNS: dict[str, tuple[str, dict[str, object]]] = {
    "bert, private": ("tiny_bert", {}),
    "gpt2, both factors, item factors at the input": ("tiny_gpt2", {**NO_PRIVACY, "adapter__item_rank": 2}),
    "bert, residual": ("tiny_bert", {**NO_PRIVACY, "adapter__aggregation": "residual", "adapter__item_rank": 2}),
    "gpt2, residual, one layer": (
        "tiny_gpt2", {**NO_PRIVACY, "adapter__aggregation": "residual", "model__layers": 1, "adapter__input_rank": 2},
    ),
}  # fmt: skip


# Each needs a run and a fresh process: two in every test run, all of them in the long one.
@pytest.mark.parametrize("name", [*list(RUNS)[:2], *(pytest.param(name, marks=pytest.mark.soak) for name in list(RUNS)[2:])])
def test_the_cards_own_code_gives_the_scores_of_the_run_without_tacit(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Negative control: of a run that trained, the scores without what it learned differ."""
    backbone, changes = RUNS[name]
    run = _simulated(tmp_path, request.getfixturevalue(backbone), **changes)
    exported = export(run, tmp_path / "out")
    expected = _scores_of_the_run(run)
    found = _scores_by_the_card(tmp_path / "out", tmp_path)
    within = rounding.of_scores(load_recommender(run))
    rounding.assert_close(found, expected, within=within)
    assert exported.difference < within * max(1.0, np.abs(expected).max())
    assert exported.files == sorted(path.name for path in (tmp_path / "out").iterdir())
    rounds = json.loads((run / "run.json").read_text())["rounds"]
    assert all(("aggregation_error" in row) == ("residual" in name) for row in rounds)
    if "private" not in name:
        untrained = load_recommender(run)
        untrained.attached.load_vector(np.zeros(untrained.attached.size, dtype=np.float32))
        prior_and_texts = untrained.score([np.array([1, 5, 2], dtype=np.int32)])
        assert np.abs(prior_and_texts - found[0]).max() > 1e-3


@pytest.fixture(scope="module")
def plain_run(tmp_path_factory: pytest.TempPathFactory, tiny_bert: str) -> Path:
    return _simulated(tmp_path_factory.mktemp("plain"), tiny_bert, **NO_PRIVACY)


def test_a_truncated_export_states_its_error_and_scores_like_the_truncated_adapter(
    plain_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recommender = load_recommender(plain_run)
    layers = {pair.module: pair for pair in recommender.attached.pairs}
    vector = recommender.attached.to_vector()
    exported = export(plain_run, tmp_path / "out", rank=1)
    monkeypatch.chdir(tmp_path / "out")
    names: dict[str, Any] = {}
    exec(_code(tmp_path / "out"), names)  # in this process, which is faster
    found = np.stack([names["score"](history).numpy() for history in HISTORIES])
    expected = _scores_of_the_run(plain_run, rank=1)
    rounding.assert_close(found, expected, within=rounding.of_scores(recommender))
    assert set(exported.cuts) == set(layers)
    off = whole = 0.0
    for module, pair in layers.items():
        values = np.linalg.svd(np.matmul(*pair.factors(vector)), compute_uv=False)
        # Singular values are off by what was rounded in the largest of them.
        within = rounding.rounding(sums=4, length=max(pair.out_features, pair.in_features))
        assert exported.cuts[module].share == pytest.approx(np.linalg.norm(values[1:]) / np.linalg.norm(values), abs=within)
        off, whole = off + np.square(values[1:]).sum(), whole + np.square(values).sum()
    assert exported.overall == pytest.approx(np.sqrt(off / whole), abs=within)
    stated = f"cut to rank 1 for this export; that left out {exported.overall:.2%} of"
    assert stated in " ".join((tmp_path / "out" / "README.md").read_text("utf-8").split())


def test_the_file_is_a_whole_model_with_its_words_and_its_tokenizer(
    finished_run: FinishedRun, tiny_bert: str, tmp_path: Path
) -> None:
    export(finished_run.folder, tmp_path / "out")
    model = AutoModel.from_pretrained(tmp_path / "out", add_pooling_layer=False)
    words = load_file(Path(tiny_bert) / "model.safetensors")["embeddings.word_embeddings.weight"]
    np.testing.assert_array_equal(model.get_input_embeddings().weight.detach().numpy(), words)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer("w3 w5")["input_ids"] == AutoTokenizer.from_pretrained(tiny_bert)("w3 w5")["input_ids"]
    # Causal: what comes later changes nothing before.
    inputs = torch.randn(1, 5, 16)
    changed = inputs.clone()
    changed[:, 3:] = torch.randn(1, 2, 16)
    outputs = [model.eval()(inputs_embeds=given).last_hidden_state for given in (inputs, changed)]
    torch.testing.assert_close(outputs[0][:, :3], outputs[1][:, :3])
    assert (outputs[0][:, 3:] - outputs[1][:, 3:]).abs().max() > 0.01


def _card(destination: Path) -> tuple[dict[str, Any], str]:
    _, front, text = (destination / "README.md").read_text("utf-8").split("---\n", 2)
    return yaml.safe_load(front), text


def test_the_card_of_a_private_run_has_the_runs_own_claim_and_no_exact_metric(
    finished_run: FinishedRun, tmp_path: Path
) -> None:
    export(finished_run.folder, tmp_path / "out")
    front, text = _card(tmp_path / "out")
    assert front["library_name"] == "transformers"
    assert front["license"] == "other"
    assert "differential-privacy" in front["tags"]
    assert "base_model" not in front  # a local directory is nobody else's name
    release = json.loads((finished_run.folder / "release.json").read_text())
    own = next(claim for claim in release["claims"] if claim["adversary"] == release["adversary"])
    assert f"epsilon = {wording.epsilon_text(own['epsilon'])}, delta = 1e-3, for {own['scope']}" in text
    assert own["epsilon"] == finished_run.record["privacy"]["epsilon"]
    for part in (own["who"], own["statement"], f"one {own['unit']} ({own['relation']})", *release["not_protected"]):
        assert part in text
    exact = finished_run.record["metrics"]["test"]
    for metric in exact.values():
        if metric["mean"]:
            assert f"{metric['mean']:.4f}" not in text
    # Thirty users are too few for the noise: the metrics were withheld, and the card says so.
    assert "None: no metrics were released, or too few users stood behind them." in text


def test_the_card_of_a_private_run_shows_noised_metrics_where_they_were_released(
    finished_run: FinishedRun, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished_run.folder, tmp_path / "run"))
    release = json.loads((run / "release.json").read_text())
    release["metrics"] = [
        {"target": "validation", "round_number": 1, "hr": 0.4321, "ndcg": 0.3, "users": 99.0, "noise_half_width": 0.011},
        {"target": "test", "round_number": 2, "hr": 0.2345, "ndcg": 0.1234, "users": 99.0, "noise_half_width": 0.0567},
    ]
    (run / "release.json").write_text(json.dumps(release))
    export(run, tmp_path / "out")
    _, text = _card(tmp_path / "out")
    assert "| HR@5 | 0.2345 |" in text
    assert "| NDCG@5 | 0.1234 |" in text
    assert "95 % of the noise within 0.0567" in text
    assert "0.4321" not in text


def test_the_card_of_a_run_without_privacy_says_so_beside_its_exact_metrics(plain_run: Path, tmp_path: Path) -> None:
    export(plain_run, tmp_path / "out")
    front, text = _card(tmp_path / "out")
    record = json.loads((plain_run / "run.json").read_text())
    assert "differential-privacy" not in front["tags"]
    assert "**NOT PRIVATE.** No claim is made: privacy is off (epsilon = inf)" in text
    assert "**NOT PRIVATE**: exact, computed from all users" in text
    assert f"| NDCG@5 | {record['metrics']['test']['ndcg@5']['mean']:.4f} |" in text
    assert "epsilon = 8" not in text


def test_nothing_that_is_written_names_a_place_of_this_machine(
    finished_run: FinishedRun, tiny_bert: str, tmp_path: Path
) -> None:
    export(finished_run.folder, tmp_path / "out")
    for path in (tmp_path / "out").iterdir():
        content = path.read_bytes()
        for place in (tiny_bert, str(finished_run.folder), str(tmp_path)):
            assert place.encode() not in content, path.name


def test_a_destination_that_holds_something_is_refused_and_left_as_it_was(finished_run: FinishedRun, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="Expected an empty or new output directory, found other files in out/"):
        export(finished_run.folder, tmp_path / "out")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "mine.txt"]


def _without_release(run: Path) -> None:
    (run / "release.json").unlink()


def _interrupted(run: Path) -> None:
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "status": "interrupted"}))


def _without_adapter(run: Path) -> None:
    shutil.rmtree(run / "adapter")


def _damaged(run: Path) -> None:
    path = run / "adapter" / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_without_release, "Expected a finished run in .*, found one without its reports. Finish it with: tacit simulate"),
        (_interrupted, "Expected a finished run in .*, found one without its reports"),
        (_without_adapter, "Expected a released adapter in .*, found none. Finish the run with"),
        (_damaged, r"Expected adapter_model\.safetensors as the manifest names it, got another file"),
    ],
)
def test_a_run_that_is_not_whole_is_refused_and_nothing_is_written(
    damage: Any, message: str, finished_run: FinishedRun, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished_run.folder, tmp_path / "run"))
    damage(run)
    with pytest.raises(CheckpointError, match=message):
        export(run, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"Expected a run in .*, could not read its config\.json"):
        export(tmp_path, tmp_path / "out")


def test_an_export_that_plain_transformers_runs_differently_is_refused_and_nothing_is_left(
    plain_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = lora.merged_weight

    def slightly_off(attached: Any, module: str, **given: Any) -> np.ndarray:
        return whole(attached, module, **given) * (1.01 if module.endswith("value") else 1.0)

    monkeypatch.setattr(lora, "merged_weight", slightly_off)
    with pytest.raises(
        TacitError, match=r"Expected plain transformers to compute what the run's model does, got a difference"
    ):
        export(plain_run, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_the_command_writes_the_folder_and_prints_json_alone(
    plain_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = running.run_tacit(capsys, "export", plain_run, tmp_path / "out", "--rank", 1, "--json")
    assert done.status == 0
    assert {"README.md", "items.json", "model.safetensors", "recommender.safetensors"} < set(done.json["files"])
    assert done.json["truncation"]["rank"] == 1
    assert 0 < done.json["truncation"]["error"] < 1
    assert max(done.json["truncation"]["modules"].values()) <= 1
    again = running.run_tacit(capsys, "export", plain_run, tmp_path / "out")
    assert again.status == 2
    assert "Expected an empty or new output directory" in again.stderr
    people = running.run_tacit(capsys, "export", plain_run, tmp_path / "second", "--rank", 2)
    assert people.status == 0
    assert "Wrote README.md, config.json, items.json" in people.stdout
    assert re.search(r"0\.00% of all learned changes was cut off \(Frobenius norm, rank 2\)\.", people.stdout)
    assert running.run_tacit(capsys, "export", plain_run, tmp_path / "third", "--rank", 0).status == 2


def test_families_that_are_causal_by_themselves_are_exported_and_one_that_needs_our_masks_is_refused(
    tiny_family: Any, tmp_path: Path
) -> None:
    for family in ("mistral", "qwen3", "gpt_neo", "modernbert"):
        folder = tmp_path / family
        folder.mkdir()
        run = _simulated(folder, tiny_family(family), federation__rounds=1, **NO_PRIVACY)
        if family != "modernbert":
            assert export(run, folder / "out").difference < 1e-4
            continue
        with pytest.raises(TacitError, match=r"Nothing was written; model\.backbone=tiny-modernbert\d+ cannot be exported"):
            export(run, folder / "out")
        assert not (folder / "out").exists()


@pytest.mark.parametrize(("family", "weights"), [("bert", "int8"), ("llama", "int4")])
def test_a_run_over_quantized_weights_is_exported_whole(family: str, weights: str, tiny_family: Any, tmp_path: Path) -> None:
    run = _simulated(tmp_path, tiny_family(family), model__weights=weights, federation__rounds=1, **NO_PRIVACY)
    assert 1e-5 < export(run, tmp_path / "out").difference < 5.0
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert all(tensor.dtype == np.float32 for tensor in load_file(tmp_path / "out" / "model.safetensors").values())


def test_a_model_that_would_look_ahead_is_refused_whatever_its_weights(tiny_family: Any, tmp_path: Path) -> None:
    run = _simulated(tmp_path, tiny_family("modernbert"), model__weights="bfloat16", federation__rounds=1, **NO_PRIVACY)
    with pytest.raises(TacitError, match=r"Nothing was written; model\.backbone=tiny-modernbert\d+ cannot be exported"):
        export(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_backbone_in_shards_is_exported_like_a_whole_one(tiny_bert: str, tmp_path: Path) -> None:
    from transformers import AutoModel

    shards = tmp_path / "shards"
    shutil.copytree(tiny_bert, shards)
    (shards / "model.safetensors").unlink()
    AutoModel.from_pretrained(tiny_bert).save_pretrained(shards, max_shard_size="20KB")
    run = _simulated(tmp_path, str(shards), federation__rounds=1, **NO_PRIVACY)
    assert export(run, tmp_path / "out").difference < 1e-4


def test_a_run_over_weights_of_fewer_bits_is_exported_whole_and_the_card_says_how_far_off_that_is(
    tiny_bert: str, tmp_path: Path
) -> None:
    run = _simulated(tmp_path, tiny_bert, model__weights="bfloat16", federation__rounds=1, **NO_PRIVACY)
    exported = export(run, tmp_path / "out")
    assert load_file(tmp_path / "out" / "model.safetensors")["embeddings.word_embeddings.weight"].dtype == np.float32
    assert 1e-5 < exported.difference < 0.5
    _, text = _card(tmp_path / "out")
    assert "trained over weights kept as bfloat16; here they are whole again" in text
    assert f"outputs differ by up to {exported.difference:.2g}." in text
