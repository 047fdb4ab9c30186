"""Fixtures for all tests: the shared data folder, and one small model as it comes from an export."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

os.environ["HF_HUB_OFFLINE"] = "1"  # no test asks the network; read when huggingface_hub is first imported

from f2llm.model import checkpoint
from f2llm.model.decoder import Decoder
from f2llm.model.sizes import Shape, matryoshka_dims
from f2llm.text.prompts import DEFAULT_INSTRUCTION, query_prompt
from f2llm.text.tokenizer import Tokenizer

SMALL = Shape(hidden=48, layers=3, mlp=80, heads=4, kv_heads=2, head_dim=16, vocab_size=512)
CORPUS = [
    "Good morning, how are you today? The weather is fine.",
    "Habari ya asubuhi, hujambo leo? Hali ya hewa ni nzuri.",
    "Доброе утро, как ваши дела сегодня? Погода хорошая.",
    "صباح الخير، كيف حالك اليوم؟ الطقس جميل.",
    "早上好，你今天好吗？天气很好。",
    "def add(a, b):\n    return a + b  # 1 + 2 == 3\n",
]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real files: F2LLM_DATA, or ../shared/data beside the repository; skips where it is absent."""
    path = Path(os.environ.get("F2LLM_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
    if not path.is_dir():
        pytest.skip(f"{path} is absent; set F2LLM_DATA to the folder of real files to run this test")
    return path


@pytest.fixture(scope="session")
def small_tokenizer() -> Tokenizer:
    """A vocabulary of 400 ids, learnt from six short texts; 64 tokens at most."""
    return Tokenizer.train(CORPUS * 3, 400, 64)


def random_decoder(shape: Shape, seed: int = 0, spread: float = 0.3) -> Decoder:
    """A decoder whose norms are random too, so that a forgotten or misplaced norm shows."""
    decoder = Decoder(shape)
    decoder.init_weights(seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in decoder.parameters():
            if parameter.dim() == 1:
                parameter.add_(spread * torch.randn(parameter.shape, generator=generator))
    return decoder


@pytest.fixture(scope="session")
def small_decoder() -> Decoder:
    """The weights of the small model."""
    return random_decoder(SMALL)


@pytest.fixture(scope="session")
def model_directory(
    tmp_path_factory: pytest.TempPathFactory, small_decoder: Decoder, small_tokenizer: Tokenizer
) -> Path:
    """The small model as an exported directory; read only, copy it before changing it."""
    directory = tmp_path_factory.mktemp("export") / "small"
    checkpoint.save(
        small_decoder,
        directory,
        tokenizer=small_tokenizer,
        max_seq_length=40,
        prompts={"query": query_prompt(DEFAULT_INSTRUCTION), "sts": query_prompt("Find the same meaning.")},
        matryoshka_dims=matryoshka_dims(SMALL.hidden),
        card="# small\n",
    )
    return directory
