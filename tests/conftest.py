"""Fixtures shared by all tests: a thread for each worker unless OMP_NUM_THREADS says more, a cache, tiny backbones."""

from __future__ import annotations

import os

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from server.home import ServerHome

# Property tests repeat themselves unless TACIT_FRESH_SEEDS is set; a slow machine is no failure.
settings.register_profile("tacit", deadline=None, derandomize="TACIT_FRESH_SEEDS" not in os.environ)
settings.load_profile("tacit")

DATA = Path(__file__).parent.parent.parent / "shared" / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file first: at the end one process would work on it alone."""
    items.sort(key=lambda item: not item.nodeid.startswith("tests/system/test_deployment.py"))


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["TACIT_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def _original_server(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests import provisioning

    return provisioning.new_server(tmp_path_factory.mktemp("server") / "server").path


@pytest.fixture(scope="session")
def another_server(tmp_path_factory: pytest.TempPathFactory) -> ServerHome:
    """A server of somebody else; no test changes it."""
    from tests import provisioning

    return provisioning.new_server(tmp_path_factory.mktemp("another") / "server")


@pytest.fixture
def server_home(_original_server: Path, tmp_path: Path) -> ServerHome:
    """A server of one's own: a copy, because making one takes a third of a second."""
    from server.home import ServerHome

    return ServerHome(Path(shutil.copytree(_original_server, tmp_path / "server")))


@pytest.fixture(scope="session", autouse=True)
def _threads() -> None:
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


def _save_tokenizer(folder: Path, *, letters: str = "") -> int:
    """Words w0 to w59; some families' tokenizers take no words but the letters that a text is spelled with."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", *[f"w{i}" for i in range(60)], *letters]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    return len(words)


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Directory of a random BERT, 16 wide, 2 layers."""
    import torch
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("tiny-bert")
    vocabulary = _save_tokenizer(folder)
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=vocabulary, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64, initializer_range=0.3,
    )  # fmt: skip
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tiny_gpt2(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Directory of a random GPT-2, 16 wide, 2 layers."""
    import torch
    from transformers import GPT2Config, GPT2Model

    folder = tmp_path_factory.mktemp("tiny-gpt2")
    vocabulary = _save_tokenizer(folder)
    torch.manual_seed(1)
    config = GPT2Config(
        vocab_size=vocabulary, n_embd=16, n_layer=2, n_head=2, n_positions=64, initializer_range=0.3,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    GPT2Model(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tiny_catalog() -> Any:
    """Twelve items with texts the tiny tokenizer knows."""
    from shared.data.catalog import ItemCatalog

    return ItemCatalog(ids=tuple(f"i{i}" for i in range(12)), texts=tuple(f"w{i} w{i + 1} w{2 * i}" for i in range(12)))


@pytest.fixture(scope="session")
def tiny_histories() -> pl.DataFrame:
    """Nine users with histories of 2 to 10 of the twelve items, and held-out targets."""
    rng = np.random.default_rng(5)
    train = [rng.integers(0, 12, size=size).tolist() for size in (2, 3, 4, 5, 6, 7, 8, 9, 10)]
    kept = pl.List(pl.Int32)
    return pl.DataFrame(
        {
            "user": [f"u{i}" for i in range(9)],
            "train": train,
            "validation": [[int(rng.integers(0, 12))] for _ in range(9)],
            "test": [[int(rng.integers(0, 12))] for _ in range(9)],
        },
        schema={"user": pl.String, "train": kept, "validation": kept, "test": kept},
    )


@pytest.fixture(scope="session")
def tiny_config(tiny_bert: str) -> Any:
    """A private configuration on the tiny backbone: FFA-LoRA, float32, replayable noise, no statistics beside the prior."""
    from shared.config import RunConfig

    return RunConfig.from_mapping(
        {
            "model.backbone": tiny_bert,
            "model.max_history_length": 6,
            "adapter.rank": 2,
            "adapter.head_rank": 3,
            "adapter.input_rank": 2,
            "adapter.output_rank": 2,
            "training.local_steps": 2,
            "training.sampling_rate": 0.5,
            "training.physical_batch_size": 4,
            "training.optimizer": "sgd",
            "training.learning_rate": 0.1,
            "federation.rounds": 2,
            "federation.clients": 3,
            "statistics.releases": "none",
            "privacy.epsilon": 8.0,
            "privacy.delta": 0.01,
            "run.reproducible": True,
            "run.device": "cpu",
            "evaluation.bootstrap_replicates": 20,
            "evaluation.k": 3,
        }
    )


def data_folder(name: str) -> Path:
    """A real data set beside the repository, or a skip that says what is missing."""
    folder = DATA / name
    if not folder.is_dir():
        pytest.skip(f"the data set {name} is not beside the repository")
    return folder


def _family_config(family: str, vocabulary: int) -> Any:
    """A tiny random configuration of a family: 64 wide, which is a block of four-bit weights."""
    import transformers as hf

    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
    common: dict[str, Any] = {
        "vocab_size": vocabulary, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 128, "max_position_embeddings": 64, "initializer_range": 0.3, **ids,
    }  # fmt: skip
    grouped = {**common, "num_key_value_heads": 1}
    short = {"vocab_size": vocabulary, "n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 64, "initializer_range": 0.3}
    neo = {
        "vocab_size": vocabulary, "hidden_size": 64, "num_layers": 2, "num_heads": 2, "intermediate_size": 128,
        "window_size": 4, "attention_types": [[["global", "local"], 1]], "max_position_embeddings": 64,
        "initializer_range": 0.3, **ids,
    }  # fmt: skip
    modern = {**common, "num_hidden_layers": 3, "local_attention": 6, "global_attn_every_n_layers": 2}
    makers: dict[str, Any] = {
        "bert": lambda: hf.BertConfig(**common),
        "gpt2": lambda: hf.GPT2Config(**short, **ids),
        "gpt_neo": lambda: hf.GPTNeoConfig(**neo),
        "gpt_neox": lambda: hf.GPTNeoXConfig(**common),
        "gptj": lambda: hf.GPTJConfig(**short, rotary_dim=4, **ids),
        "llama": lambda: hf.LlamaConfig(**grouped),
        "mistral": lambda: hf.MistralConfig(**grouped, sliding_window=4),
        "modernbert": lambda: hf.ModernBertConfig(**modern, cls_token_id=1, sep_token_id=1),
        "qwen2": lambda: hf.Qwen2Config(**grouped, use_sliding_window=True, sliding_window=4, max_window_layers=1),
        "qwen3": lambda: hf.Qwen3Config(**grouped, head_dim=32),
    }
    return makers[family]()


@pytest.fixture(scope="session")
def tiny_family(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Gives the directory of a tiny random model of a family; each is made once."""
    made: dict[str, str] = {}

    def folder_of(family: str) -> str:
        import torch
        from transformers import AutoModel

        if family not in made:
            folder = tmp_path_factory.mktemp(f"tiny-{family}")
            vocabulary = _save_tokenizer(folder, letters="wĠ0123456789")
            torch.manual_seed(1)
            AutoModel.from_config(_family_config(family, vocabulary)).save_pretrained(folder)
            made[family] = str(folder)
        return made[family]

    return folder_of


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, tiny_bert: str) -> Any:
    """One finished private run on thirty users, shared by the tests that look at what a run leaves behind.

    Its noise is the same each time, so that no test depends on luck.
    """
    import shared.randomness
    from simulations.simulate import simulate
    from tests import running

    folder = tmp_path_factory.mktemp("finished")
    data = running.write_interactions(folder / "interactions.csv")
    config = running.settings(data, tiny_bert, evaluation__baselines="popularity,text_similarity")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared.randomness, "secret_bytes", np.random.default_rng(1).bytes)
        record = simulate(config, folder / "run", quiet=True)
    return running.FinishedRun(folder / "run", record, data)
