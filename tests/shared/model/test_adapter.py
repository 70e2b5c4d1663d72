"""The adapter: what is trained, how it travels, and that its files alone reproduce the scores."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from client.training.dp_sgd import TrainingTask, train
from shared.config import RunConfig
from shared.errors import CheckpointError, ConfigError, UnsupportedMechanism
from shared.model import adapter as lora
from shared.model.recommender import Recommender, build, build_from_saved
from shared.model.state import RecommenderState
from shared.randomness import secret_source
from tests import rounding
from tests.plans import silo_plan

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def recommender(tiny_config: RunConfig, tiny_catalog: Any) -> Recommender:
    return build(tiny_config, tiny_catalog)


@given(st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_flat_vector_comes_back_as_it_was_loaded(recommender: Recommender, data: st.DataObject) -> None:
    attached = recommender.attached
    finite = st.floats(-(2.0**99), 2.0**99, width=32)
    vector = data.draw(hnp.arrays(np.float32, attached.size, elements=finite))
    attached.load_vector(vector)
    np.testing.assert_array_equal(attached.to_vector(), vector)
    # Every tensor holds its own part, in the order of the names.
    names = [name for name, _ in attached.trained]
    assert names == sorted(names)
    np.testing.assert_array_equal(np.concatenate([p.detach().numpy().ravel() for p in attached.parameters]), vector)


def test_the_flat_vector_is_a_copy(recommender: Recommender) -> None:
    before = recommender.attached.to_vector()
    recommender.attached.to_vector()[:] = 7.0
    np.testing.assert_array_equal(recommender.attached.to_vector(), before)
    source = np.ones_like(before)
    recommender.attached.load_vector(source)
    source[:] = 5.0
    assert (recommender.attached.to_vector() == 1.0).all()


def test_a_vector_of_another_size_is_refused(recommender: Recommender) -> None:
    size = recommender.attached.size
    for shape in ((size - 1,), (size, 1), ()):
        with pytest.raises(CheckpointError, match=f"Expected an adapter of {size} parameters, got shape="):
            recommender.attached.load_vector(np.zeros(shape, dtype=np.float32))


def test_under_privacy_only_the_factors_that_start_at_zero_are_trained(tiny_config: RunConfig, tiny_catalog: Any) -> None:
    attached = build(tiny_config, tiny_catalog).attached
    assert tiny_config.freezes_a
    assert all("lora_B." in name for name, _ in attached.trained)
    np.testing.assert_array_equal(attached.to_vector(), np.zeros(attached.size))
    trained = {name for name, _ in attached.trained}
    assert {name for name, value in attached.model.named_parameters() if value.requires_grad} == trained
    frozen = [value for name, value in attached.model.named_parameters() if "lora_A." in name]
    assert len(frozen) == len(trained)
    assert all(value.abs().max() > 0 for value in frozen)


def test_without_privacy_both_factors_are_trained_and_the_model_starts_the_same(
    tiny_config: RunConfig, tiny_catalog: Any
) -> None:
    private = build(tiny_config, tiny_catalog)
    plain = build(tiny_config.with_values({"privacy.epsilon": math.inf}), tiny_catalog)
    assert {"lora_A", "lora_B"} == {name.split(".")[-3] for name, _ in plain.attached.trained}
    assert plain.attached.size > private.attached.size
    np.testing.assert_array_equal(plain.score([np.array([1, 2])]), private.score([np.array([1, 2])]))


@pytest.mark.parametrize("backbone", ["tiny_bert", "tiny_gpt2"])
def test_every_part_has_the_rank_and_the_scaling_that_was_asked_for(
    backbone: str, request: pytest.FixtureRequest, tiny_config: RunConfig, tiny_catalog: Any
) -> None:
    values = {
        "model.backbone": request.getfixturevalue(backbone),
        "adapter.input_rank": 1,
        "adapter.scaling": 0.75,
    }
    model = build(tiny_config.with_values(values), tiny_catalog).attached.model
    layers = {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}
    ranks = {name: module.r["default"] for name, module in layers.items()}
    assert (ranks.pop("item_head"), ranks.pop("input_projection"), ranks.pop("output_projection")) == (
        3,
        1,
        2,
    )
    assert len(ranks) == {"tiny_bert": 12, "tiny_gpt2": 8}[backbone]
    assert set(ranks.values()) == {2}
    assert all(module.scaling["default"] == pytest.approx(0.75) for module in layers.values())


def test_a_rank_of_zero_leaves_a_part_frozen(tiny_config: RunConfig, tiny_catalog: Any) -> None:
    config = tiny_config.with_values({"adapter.rank": 0, "adapter.input_rank": 0, "adapter.output_rank": 0})
    ((name, parameter),) = build(config, tiny_catalog).attached.trained
    assert name.startswith("item_head.")
    assert parameter.shape == (12, 3)


def _all_ranks(recommender: Recommender) -> dict[str, int]:
    layers = {name: module for name, module in recommender.attached.model.named_modules() if hasattr(module, "lora_A")}
    return {name: module.r["default"] for name, module in layers.items()}


@pytest.mark.parametrize("backbone", ["tiny_bert", "tiny_gpt2"])
def test_the_first_pattern_that_fits_a_modules_name_decides_its_rank(
    backbone: str, request: pytest.FixtureRequest, tiny_config: RunConfig, tiny_catalog: Any
) -> None:
    patterns = {
        "tiny_bert": r"layer\.0\.=0, query|value = 5, output_proj=1",
        "tiny_gpt2": r"h\.0\.=0, c_attn = 5, output_proj=1",
    }
    values = {"model.backbone": request.getfixturevalue(backbone), "adapter.ranks": patterns[backbone]}
    ranks = _all_ranks(build(tiny_config.with_values(values), tiny_catalog))
    # All of the first layer is frozen, its query included: that pattern comes first.
    assert not any(".0." in name for name in ranks)
    attention = [rank for name, rank in ranks.items() if name.endswith(("query", "value", "c_attn"))]
    assert attention == {"tiny_bert": [5, 5], "tiny_gpt2": [5]}[backbone]
    others = [rank for name, rank in ranks.items() if ".1." in name and not name.endswith(("query", "value", "c_attn"))]
    assert set(others) == {2}
    assert (ranks["output_projection"], ranks["item_head"], ranks["input_projection"]) == (1, 3, 2)


def test_patterns_name_the_modules_beside_the_transformer_too(tiny_config: RunConfig, tiny_catalog: Any) -> None:
    plain = tiny_config.with_values(
        {"privacy.epsilon": math.inf, "adapter.ranks": "item_embedding=4,transformer=0,^item_h=1"}
    )
    assert _all_ranks(build(plain, tiny_catalog)) == {
        "item_embedding": 4, "input_projection": 2, "output_projection": 2, "item_head": 1
    }  # fmt: skip


def test_item_factors_named_by_a_pattern_are_refused_under_privacy_too(tiny_config: RunConfig, tiny_catalog: Any) -> None:
    config = tiny_config.with_values({"adapter.ranks": "item_=3"})
    with pytest.raises(UnsupportedMechanism, match=r"got adapter\.item_rank=3\. Opacus cannot clip"):
        build(config, tiny_catalog)


def test_a_pattern_that_fits_no_module_is_an_error_that_lists_names(tiny_config: RunConfig, tiny_catalog: Any) -> None:
    config = tiny_config.with_values({"adapter.ranks": "query=2,qery=4"})
    message = (
        r"got 'qery', which fits none\. Names are input_projection, item_embedding, item_head, output_projection, "
        r"transformer\.encoder\.layer\.0\.attention\.output\.dense, \S+ and 10 more\."
    )
    with pytest.raises(ConfigError, match=message):
        build(config, tiny_catalog)


def test_patterns_that_leave_nothing_to_train_are_refused(tiny_config: RunConfig, tiny_catalog: Any) -> None:
    with pytest.raises(ConfigError, match=r"Expected a rank > 0 for at least one module, got adapter\.ranks=\.=0"):
        build(tiny_config.with_values({"adapter.ranks": ".=0"}), tiny_catalog)


def test_input_side_item_factors_are_refused_under_privacy(tiny_config: RunConfig, tiny_catalog: Any) -> None:
    config = tiny_config.with_values({"adapter.item_rank": 4})
    message = r"Expected adapter\.item_rank = 0 under privacy, got adapter\.item_rank=4\. Opacus cannot clip"
    with pytest.raises(UnsupportedMechanism, match=message):
        build(config, tiny_catalog)
    plain = build(config.with_values({"privacy.epsilon": math.inf}), tiny_catalog)
    assert any("lora_embedding_A" in name for name, _ in plain.attached.trained)


def _all_lora(recommender: Recommender) -> np.ndarray:
    named = sorted(recommender.attached.model.named_parameters())
    return torch.cat([value.detach().ravel() for name, value in named if "lora_" in name]).numpy()


def test_the_seed_decides_the_initialization_and_nothing_else_does(tiny_config: RunConfig, tiny_catalog: Any) -> None:
    torch.manual_seed(1)
    first = build(tiny_config, tiny_catalog)
    state = torch.random.get_rng_state()
    torch.manual_seed(2)
    second = build(tiny_config, tiny_catalog)
    other = build(tiny_config.with_values({"run.seed": 1}), tiny_catalog)
    np.testing.assert_array_equal(_all_lora(first), _all_lora(second))
    assert not np.array_equal(_all_lora(first), _all_lora(other))
    torch.manual_seed(1)
    build(tiny_config, tiny_catalog)
    assert torch.equal(torch.random.get_rng_state(), state)


HISTORIES = [np.array([1, 5, 2]), np.array([0]), np.array([7, 7, 3, 11, 4, 6])]


def _privately_trained(config: RunConfig, catalog: Any, histories: Any) -> Recommender:
    """After two steps through Opacus' hooks, clipped and noised with noise from the system."""
    recommender = build(config, catalog)
    plan = silo_plan(noise_multiplier=1.0, sampling_rate=0.8, steps_per_round=2, rounds=1)
    start = RecommenderState(np.linspace(-3, 0, 12, dtype=np.float32), recommender.initial_adapter)
    task = TrainingTask(start, histories["train"], expected_batch_size=4.0, learning_rate=0.5, source=secret_source())
    (result,) = train([task], recommender, plan, config.training)
    recommender.load_state(RecommenderState(start.log_prior, start.adapter + result))
    return recommender


_SCORE = """
import json, sys
from pathlib import Path
import numpy as np
from shared.data.catalog import ItemCatalog
from shared.config import RunConfig
from shared.model.recommender import build, build_from_saved
folder = Path(sys.argv[1])
config = RunConfig.from_mapping(json.loads((folder / "config.json").read_text()))
catalog = ItemCatalog.load(folder / "catalog.parquet")
histories = [np.array(row) for row in ([1, 5, 2], [0], [7, 7, 3, 11, 4, 6])]
loaded, untrained = build_from_saved(config, catalog, folder / "adapter"), build(config, catalog)
for recommender in (loaded, untrained):
    recommender.attached.model.set_log_prior(np.linspace(-3, 0, 12, dtype=np.float32))
np.savez(folder / "scores.npz", loaded=loaded.score(histories), untrained=untrained.score(histories))
"""


@pytest.mark.parametrize("backbone", ["tiny_bert", pytest.param("tiny_gpt2", marks=pytest.mark.soak)])
def test_an_adapter_saved_after_private_training_gives_the_same_scores_in_a_fresh_process_on_a_fresh_base(
    backbone: str,
    request: pytest.FixtureRequest,
    tiny_config: RunConfig,
    tiny_catalog: Any,
    tiny_histories: Any,
    tmp_path: Path,
) -> None:
    """Opacus + peft have been known to corrupt this silently; the negative control is the unadapted model."""
    config = tiny_config.with_values({"model.backbone": request.getfixturevalue(backbone)})
    trained = _privately_trained(config, tiny_catalog, tiny_histories)
    expected = trained.score(HISTORIES)
    lora.save(trained.attached, tmp_path / "adapter")
    assert {path.name for path in (tmp_path / "adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    tiny_catalog.save(tmp_path / "catalog.parquet")
    (tmp_path / "config.json").write_text(json.dumps(config.to_flat()))
    done = subprocess.run(
        [sys.executable, "-c", _SCORE, str(tmp_path)], capture_output=True, text=True, timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    scores = np.load(tmp_path / "scores.npz")
    rounding.assert_close(scores["loaded"], expected, within=rounding.of_scores(trained))
    assert np.abs(scores["untrained"] - expected).max() > 0.05


@pytest.mark.parametrize("changes", [{"privacy.epsilon": math.inf, "adapter.item_rank": 3}, {"run.seed": 9}])
def test_the_files_hold_everything_that_differs_from_the_base(
    changes: dict[str, Any], tiny_config: RunConfig, tiny_catalog: Any, tmp_path: Path
) -> None:
    config = tiny_config.with_values(changes)
    trained = build(config, tiny_catalog)
    rng = np.random.default_rng(0)
    trained.attached.load_vector(rng.normal(size=trained.attached.size).astype(np.float32))
    lora.save(trained.attached, tmp_path)
    # The seed of the one that loads is another: the frozen factors have to come from the file.
    loaded = build_from_saved(config.with_values({"run.seed": 77}), tiny_catalog, tmp_path)
    np.testing.assert_array_equal(loaded.attached.to_vector(), trained.attached.to_vector())
    np.testing.assert_array_equal(_all_lora(loaded), _all_lora(trained))
    within = rounding.of_scores(trained)
    rounding.assert_close(loaded.score(HISTORIES), trained.score(HISTORIES), within=within)
    assert [name for name, _ in loaded.attached.trained] == [name for name, _ in trained.attached.trained]


def _break(folder: Path, how: str) -> None:
    from safetensors.numpy import load_file, save_file

    weights, settings_ = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    tensors = load_file(weights)
    if how == "absent":
        weights.unlink()
    elif how == "half":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif how == "settings":
        settings_.write_text("{")
    elif how == "tensor missing":
        tensors.pop(next(name for name in tensors if "item_head.lora_B" in name))
        save_file(tensors, weights)
    elif how == "another catalog":
        name = next(name for name in tensors if "item_head.lora_B" in name)
        save_file({**tensors, name: np.zeros((13, tensors[name].shape[1]), dtype=np.float32)}, weights)


@pytest.mark.parametrize("how", ["absent", "half", "settings", "tensor missing", "another catalog"])
def test_files_that_are_damaged_or_of_another_catalog_are_refused(
    how: str, recommender: Recommender, tiny_config: RunConfig, tiny_catalog: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "adapter"
    lora.save(recommender.attached, folder)
    _break(folder, how)
    with pytest.raises(
        CheckpointError, match=r"Expected a readable adapter in adapter/, got \w+\. It is damaged or belongs"
    ):
        build_from_saved(tiny_config, tiny_catalog, folder)


@pytest.mark.soak
def test_a_process_that_quantizes_nothing_never_imports_the_library_for_it(tiny_bert: str) -> None:
    code = (
        "import sys\n"
        "from shared.data.catalog import ItemCatalog\n"
        "from shared.config import RunConfig\n"
        "from shared.model.recommender import build\n"
        "config = RunConfig.from_mapping({'model.backbone': sys.argv[1], 'adapter.rank': 2})\n"
        "build(config, ItemCatalog(('a', 'b'), ('w1', 'w2')))\n"
        "assert 'bitsandbytes' not in sys.modules\n"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code, tiny_bert], cwd=root, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
