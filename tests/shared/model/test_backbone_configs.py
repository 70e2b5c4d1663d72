"""What a config.json, an index or a tokenizer of somebody else may say: it never makes a backbone look ahead or run code."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import errors as hub

from shared.errors import ConfigError
from shared.model.backbone import _why_not, encode_texts, load_backbone, locate, read_config, weights_digest
from shared.model.families import SUPPORTED_MODEL_TYPES, require_causal
from tests import rounding

Folders = Callable[[str], str]
EXPECTED = (
    r"^Expected a backbone of type bert, gpt2, .*, got model_type=%s for model\.backbone=.* takes inputs_embeds, gives one "
)


def _changed(source: str, target: Path, file: str = "config.json", **changes: Any) -> str:
    shutil.copytree(source, target)
    own = json.loads((target / file).read_text(encoding="utf-8"))
    (target / file).write_text(json.dumps({**own, **changes}), encoding="utf-8")
    return str(target)


@pytest.mark.parametrize("family", SUPPORTED_MODEL_TYPES)
@pytest.mark.parametrize(
    "said", [{"is_causal": False}, {"attn_implementation": "eager"}, {"attn_implementation": "flash_attention_2"}], ids=str
)
def test_no_setting_of_attention_in_the_file_makes_a_family_look_ahead(
    family: str, said: dict[str, Any], tiny_family: Folders, tmp_path: Path
) -> None:
    """`is_causal` is how models with attention to both sides are published; masks of booleans add 1 in eager attention."""
    transformer = load_backbone(_changed(tiny_family(family), tmp_path / "copy", **said)).transformer
    plain = load_backbone(tiny_family(family)).transformer
    inputs = torch.randn(2, 12, 64, generator=torch.Generator().manual_seed(0))
    changed = inputs.clone()
    changed[:, 6:] = torch.randn(2, 6, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before, after, unchanged = (
            model(inputs_embeds=x).last_hidden_state
            for model, x in ((transformer, inputs), (transformer, changed), (plain, inputs))
        )
    rounding.assert_close(after[:, :6], before[:, :6], within=rounding.of_model(transformer))
    rounding.assert_close(before, unchanged, within=rounding.of_model(transformer))


def test_a_transformer_that_looks_ahead_is_refused_wherever_it_comes_from(tiny_family: Folders) -> None:
    from transformers import AutoModel

    message = r"^Expected a backbone that does not look ahead, got one .* for model\.backbone=some/name\. Its config\.json"
    with pytest.raises(ConfigError, match=message):
        require_causal("some/name", AutoModel.from_pretrained(tiny_family("bert")).eval())
    require_causal("some/name", AutoModel.from_pretrained(tiny_family("llama")).eval())


def test_a_transformer_whose_outputs_are_no_numbers_is_refused(tiny_family: Folders) -> None:
    from transformers import AutoModel

    broken = AutoModel.from_pretrained(tiny_family("llama")).eval()
    torch.nn.init.constant_(broken.norm.weight, float("nan"))
    with pytest.raises(ConfigError, match=r"^Expected a backbone that does not look ahead"):
        require_causal("some/name", broken)


def test_outputs_come_by_name_whatever_the_file_says(tiny_bert: str, tmp_path: Path) -> None:
    transformer = load_backbone(_changed(tiny_bert, tmp_path / "copy", return_dict=False)).transformer
    assert transformer(inputs_embeds=torch.zeros(1, 2, 16)).last_hidden_state.shape == (1, 2, 16)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ("t5", "t5"), ("vit", "vit"), ("mamba", "mamba"), ("of-tomorrow", "of-tomorrow"), (None, "None"),
        ("\x1b[2Jred", "unreadable"), (["bert"], "unreadable"),
    ],
)  # fmt: skip
def test_a_type_that_is_none_of_the_families_is_answered_with_what_is_expected(
    found: object, said: str, tiny_bert: str, tmp_path: Path
) -> None:
    """An encoder with a decoder, images, no attention, unknown to the library, none, escape sequences, no text."""
    with pytest.raises(ConfigError, match=EXPECTED % said):
        load_backbone(_changed(tiny_bert, tmp_path / "copy", model_type=found))


def test_code_beside_the_weights_is_never_run_nor_offered_to_be(
    tiny_bert: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def asked(*_: object) -> str:
        raise AssertionError("somebody was asked")

    monkeypatch.setattr("builtins.input", asked)
    for model_type in ("of-tomorrow", "bert"):
        code = {"AutoConfig": "own.Own", "AutoModel": "own.OwnModel"}
        folder = Path(_changed(tiny_bert, tmp_path / model_type, model_type=model_type, auto_map=code))
        (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')", encoding="utf-8")
        if model_type == "bert":  # a family that is known needs no code of its own
            load_backbone(str(folder))
        else:
            with pytest.raises(ConfigError, match=EXPECTED % model_type):
                load_backbone(str(folder))
    assert not (tmp_path / "ran").exists() and "custom code" not in capsys.readouterr().out


def test_weights_that_somebody_else_quantized_are_refused(tiny_bert: str, tmp_path: Path) -> None:
    folder = _changed(tiny_bert, tmp_path / "copy", quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(ConfigError, match=r"^Expected a backbone with weights of 16 or 32 bits, got quantized ones for"):
        load_backbone(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": "wide"}, r"^Expected config\.json of model\.backbone=.* to be one of type bert, got settings that"),
        ({"num_attention_heads": 3}, r"^Expected model\.backbone=.* to hold weights that match its config\.json"),
    ],
)
def test_settings_that_are_none_of_their_type_are_refused(
    changes: dict[str, Any], message: str, tiny_bert: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        load_backbone(_changed(tiny_bert, tmp_path / "copy", **changes))


def test_a_config_that_is_no_mapping_is_refused(tiny_bert: str, tmp_path: Path) -> None:
    shutil.copytree(tiny_bert, tmp_path / "copy")
    (tmp_path / "copy" / "config.json").write_text("[1]", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"to hold a readable config\.json, got ValueError\. A backbone is a Hugging Face"):
        read_config(str(tmp_path / "copy"))


@pytest.mark.parametrize("shard", ["../elsewhere.safetensors", "/etc/weights.safetensors", "sub/weights.safetensors", 3])
def test_an_index_that_names_files_elsewhere_is_refused(shard: object, tiny_bert: str, tmp_path: Path) -> None:
    """What is loaded is what is in the digest."""
    shutil.copytree(tiny_bert, tmp_path / "copy")
    (tmp_path / "copy" / "model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    index = tmp_path / "copy" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": shard}}), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"to name the shards of its weights, found a damaged file\."):
        weights_digest(str(tmp_path / "copy"))


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
@pytest.mark.parametrize(
    "changes", [{"padding_side": "left"}, {"pad_token": None, "eos_token": None}, {"pad_token": "[NEW]"}], ids=str
)
def test_texts_that_share_a_batch_are_encoded_as_alone_however_the_tokenizer_pads(
    family: str, changes: dict[str, Any], tiny_family: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Padding in front would move learned positions; a token that was added has no row in the word table."""
    folder = _changed(tiny_family(family), tmp_path / "copy", "tokenizer_config.json", **changes)
    texts = ["w1 w2 w3", "w4", "w5 w6 w7 w8 w9"]
    together = []
    for name, chosen in (("together", [texts]), ("alone", [[text] for text in texts])):
        monkeypatch.setenv("TACIT_CACHE", str(tmp_path / name))
        together.append(np.concatenate([encode_texts(part, backbone=folder) for part in chosen]))
    rounding.assert_close(together[0], together[1], within=rounding.of_model(load_backbone(folder).transformer))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (hub.HFValidationError("x"), "no such directory, and no such public model on the hub"),
        (hub.LocalEntryNotFoundError("x"), "not in the local cache of the hub, and the hub was not reached"),
        (ConnectionError("x"), "not in the local cache of the hub, and the hub was not reached"),
    ],
)
def test_a_name_that_is_nowhere_is_told_from_a_hub_that_is_not_reached(error: Exception, reason: str) -> None:
    assert reason in _why_not(error)


def test_a_path_that_is_no_directory_is_said_to_be_none() -> None:
    with pytest.raises(
        ConfigError, match=r"got model\.backbone=\./models/none: no such directory, and no such public model"
    ):
        locate("./models/none")
