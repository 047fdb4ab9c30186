"""An exported directory gives the same vectors in sentence-transformers, transformers and here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoTokenizer

from f2llm.model import checkpoint
from f2llm.model.embedder import Embedder
from f2llm.model.merge import merge
from f2llm.model.prune_directory import prune_directory
from f2llm.model.sizes import matryoshka_dims
from f2llm.model.trim import trim
from f2llm.text.prompts import DEFAULT_INSTRUCTION, query_prompt
from f2llm.text.tokenizer import Tokenizer
from tests.conftest import CORPUS, SMALL, random_decoder

MIN_COSINE = 0.99999
TEXTS = ["", "one", *CORPUS, "a <|im_end|> b", "This text is longer than the limit allows. " * 30]


def assert_same(a: np.ndarray, b: np.ndarray) -> None:
    assert a.shape == b.shape
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert cosine.min() > MIN_COSINE


KINDS = ["small", "pruned", "trimmed", "merged", pytest.param("qwen3", marks=pytest.mark.data)]


@pytest.fixture(params=KINDS, scope="module")
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model with its own vocabulary, what is made of it, and one with Qwen3's vocabulary."""
    if request.param != "qwen3":
        small = Path(request.getfixturevalue("model_directory"))
        return made_of(small, request.param, tmp_path_factory.mktemp(request.param))
    file = request.getfixturevalue("shared_data") / "qwen3-tokenizer" / "tokenizer.json"
    path = tmp_path_factory.mktemp("export") / "qwen3"
    checkpoint.save(
        random_decoder(replace(SMALL, vocab_size=151_936, layers=2)),
        path,
        tokenizer=Tokenizer.load(file, 1024),
        max_seq_length=48,
        prompts={"query": query_prompt(DEFAULT_INSTRUCTION), "sts": query_prompt("Find the same meaning.")},
        matryoshka_dims=matryoshka_dims(SMALL.hidden),
        card="",
    )
    return path


def made_of(small: Path, kind: str, place: Path) -> Path:
    """The directory of the small model, or of a pruned, trimmed or merged one."""
    texts, out = place / "texts.txt", place / "model"
    texts.write_text("\n".join(line for text in CORPUS[:4] for line in text.splitlines()), encoding="utf-8")
    if kind == "pruned":
        prune_directory(small, ["hidden=40,layers=2,mlp=48"], texts, out)
    elif kind == "trimmed":
        trim(small, out, corpus=texts)
    elif kind == "merged":
        merge([small, small], out)
    return small if kind == "small" else out


@pytest.fixture(scope="module")
def ours(directory: Path) -> Embedder:
    return Embedder.load(directory)


@pytest.fixture(scope="module")
def theirs(directory: Path) -> SentenceTransformer:
    return SentenceTransformer(str(directory), device="cpu")


def test_settings(ours: Embedder, theirs: SentenceTransformer) -> None:
    assert theirs.max_seq_length == ours.max_seq_length
    assert theirs.get_embedding_dimension() == ours.dims
    assert theirs.prompts == ours.prompts
    assert theirs.similarity_fn_name == "cosine"


def test_documents_and_texts_over_the_limit(ours: Embedder, theirs: SentenceTransformer) -> None:
    found = ours.encode_document(TEXTS)
    assert ours.last_stats.truncated >= 1
    assert_same(found, theirs.encode_document(TEXTS))
    assert_same(found, theirs.encode(TEXTS, batch_size=3))


def test_queries_with_prompts(ours: Embedder, theirs: SentenceTransformer) -> None:
    assert_same(ours.encode_query(TEXTS), theirs.encode_query(TEXTS))
    assert_same(ours.encode_query(TEXTS, prompt_name="sts"), theirs.encode_query(TEXTS, prompt_name="sts"))
    own = "Instruct: Mine.\nQuery: "
    assert_same(ours.encode_query(TEXTS, instruction="Mine."), theirs.encode(TEXTS, prompt=own))


def test_truncated_dimensions(ours: Embedder, theirs: SentenceTransformer) -> None:
    for dim in (8, 32):
        expected = theirs.encode_query(TEXTS, truncate_dim=dim, normalize_embeddings=True)
        np.testing.assert_allclose(ours.encode_query(TEXTS, truncate_dim=dim), expected, atol=1e-5)


def test_similarity(ours: Embedder, theirs: SentenceTransformer) -> None:
    a, b = ours.encode_query(TEXTS), ours.encode_document(TEXTS)
    np.testing.assert_allclose(ours.similarity(a, b), theirs.similarity(a, b).numpy(), atol=1e-6)


def test_transformers_alone(directory: Path, ours: Embedder) -> None:
    tokenizer, model = AutoTokenizer.from_pretrained(directory), AutoModel.from_pretrained(directory).eval()
    assert type(model).__name__ == "Qwen3Model"
    batch = tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        states = model(**batch).last_hidden_state
    ends = batch["attention_mask"].sum(1) - 1
    assert (batch["input_ids"][torch.arange(len(TEXTS)), ends] == ours.tokenizer.eos_id).all()
    expected = states[torch.arange(len(TEXTS)), ends].numpy()
    assert_same(ours.encode(TEXTS, normalize=False), expected)
