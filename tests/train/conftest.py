"""A small token store and a small decoder."""

import random
from pathlib import Path

import pytest

from f2llm.core.types import Example
from f2llm.data.store import StageSource, TokenStore, build_store
from f2llm.model.decoder import Decoder
from f2llm.model.sizes import Shape
from f2llm.text.tokenizer import Tokenizer

WORDS = "sun moon star tree river stone bird fish cloud wind fire snow leaf road house"


def sentence(rng: random.Random, low: int = 1, high: int = 9) -> str:
    return " ".join(rng.choices(WORDS.split(" "), k=rng.randint(low, high)))


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    rng = random.Random(0)
    return Tokenizer.train([sentence(rng) for _ in range(200)], vocab_size=300, max_seq_length=32)


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> TokenStore:
    rng = random.Random(1)
    directory: Path = tmp_path_factory.mktemp("store")
    sources = []
    for name, kind, rows, negatives in (("pairs", "retrieval", 90, 6), ("groups", "clustering", 40, 6), ("yes", "classification", 20, 1)):  # fmt: skip  # noqa: E501
        examples = [
            Example(
                str(i),
                sentence(rng),
                sentence(rng),
                tuple(sentence(rng) for _ in range(negatives)),
                kind,
                name,
                "eng_Latn",
                "eng_Latn",
            )
            for i in range(rows)
        ]
        sources.append((StageSource(name, kind, "Find it.", symmetric=name == "pairs"), examples))  # type: ignore[arg-type]
    build_store(directory, sources, tokenizer, negatives=6, instruction_share=0.3, seed=0)
    return TokenStore(directory)


@pytest.fixture
def decoder(tokenizer: Tokenizer) -> Decoder:
    model = Decoder(Shape(16, 2, 24, 4, 2, 8, tokenizer.vocab_size))
    model.init_weights(0)
    return model
