import gzip
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

from f2llm.core.errors import ConfigError, DataError, F2LLMError, ModelError
from f2llm.model import checkpoint, trim
from f2llm.model.doctor import diagnose
from f2llm.model.embedder import Embedder
from f2llm.model.sizes import Shape
from f2llm.text.tokenizer import Tokenizer
from tests.conftest import CORPUS, SMALL, random_decoder

ENGLISH, SWAHILI, RUSSIAN = CORPUS[:3]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A folder with a file of English and one of Swahili."""
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "eng.txt").write_text(f"{ENGLISH}\n\n{ENGLISH[:20]}\n", encoding="utf-8")
    (folder / "swa.txt").write_bytes(b"\xef\xbb\xbf" + SWAHILI.encode() + b"\r\n")
    (folder / "notes.md").write_text(RUSSIAN, encoding="utf-8")
    return folder


def test_texts_of_the_corpus_keep_their_vectors(model_directory: Path, corpus: Path, tmp_path: Path) -> None:
    report = trim.trim(model_directory, tmp_path / "out", corpus=corpus, coverage=1.0)
    old, new = Embedder.load(model_directory), Embedder.load(tmp_path / "out")
    for texts in ([ENGLISH, SWAHILI, ENGLISH[:20]], [""]):
        for name in ("query", "sts", "document"):
            before = old.encode(texts, prompt=old.prompts[name])
            np.testing.assert_allclose(new.encode(texts, prompt=new.prompts[name]), before, atol=1e-6, rtol=0)
    assert np.abs(new.encode([RUSSIAN]) - old.encode([RUSSIAN])).max() > 1e-3
    assert report.checked >= 6
    assert (new.prompts, new.max_seq_length, new.matryoshka_dims) == (old.prompts, 40, old.matryoshka_dims)


def test_the_report_counts(model_directory: Path, corpus: Path, tmp_path: Path) -> None:
    samples = {"rus": [RUSSIAN], "none": []}
    report = trim.trim(model_directory, tmp_path / "out", corpus=corpus, coverage=1.0, samples=samples)
    shape = checkpoint.read_shape(tmp_path / "out")
    tokenizer = checkpoint.read_settings(tmp_path / "out").tokenizer
    assert (report.tokens_before, report.tokens_after) == (400, shape.vocab_size)
    assert 258 < report.tokens_after == tokenizer.vocab_size < 350
    assert (report.table_before, report.table_after) == (512 * 48, shape.vocab_size * 48)
    assert report.parameters_before - report.parameters_after == report.table_before - report.table_after
    assert report.parameters_before == SMALL.parameters
    found = report.tokens_per_character
    assert list(found) == ["rus", "none", "eng", "swa"]
    assert found["eng"][0] == found["eng"][1] > 0
    assert (
        found["rus"][1]
        > found["rus"][0]
        == (len(tokenizer_of(model_directory).encode([RUSSIAN])[0]) - 1) / len(RUSSIAN)
    )
    assert found["none"] == (0.0, 0.0)
    assert json.loads(json.dumps(asdict(report)))["tokens_after"] == report.tokens_after


def tokenizer_of(directory: Path) -> Tokenizer:
    return checkpoint.read_settings(directory).tokenizer.limited_to(1000)


def test_every_loader_reads_the_result(model_directory: Path, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    trim.trim(model_directory, out, corpus=corpus)
    assert [finding for finding in diagnose(out) if not finding.ok] == []
    texts = [*CORPUS, "", "a <|im_end|> b", "long " * 100]
    theirs = SentenceTransformer(str(out), device="cpu")
    np.testing.assert_allclose(theirs.encode_query(texts), Embedder.load(out).encode_query(texts), atol=1e-5, rtol=0)
    np.testing.assert_allclose(theirs.encode(texts), Embedder.load(out).encode(texts), atol=1e-5, rtol=0)


def test_by_languages(model_directory: Path, tmp_path: Path) -> None:
    report = trim.trim(model_directory, tmp_path / "out", languages=["rus", "eng_Latn"], samples={"rus": [RUSSIAN]})
    old, new = Embedder.load(model_directory), Embedder.load(tmp_path / "out")
    texts = [ENGLISH, RUSSIAN, "Совсем другие слова, and 100% new words."]
    np.testing.assert_allclose(new.encode_query(texts), old.encode_query(texts), atol=1e-6, rtol=0)
    assert report.tokens_per_character == {"rus": (report.tokens_per_character["rus"][0],) * 2}
    assert "script Cyrl" in (tmp_path / "out/README.md").read_text()
    alone = trim.trim(model_directory, tmp_path / "alone", languages=["rus"])
    assert alone.tokens_after < report.tokens_after
    assert alone.tokens_per_character == {}


def test_languages_and_corpus_together(model_directory: Path, corpus: Path, tmp_path: Path) -> None:
    file = corpus / "eng.txt"
    both = trim.trim(model_directory, tmp_path / "both", languages=["rus"], corpus=file, coverage=1)
    assert list(both.tokens_per_character) == ["eng"]
    old, new = Embedder.load(model_directory), Embedder.load(tmp_path / "both")
    np.testing.assert_allclose(new.encode([ENGLISH, RUSSIAN]), old.encode([ENGLISH, RUSSIAN]), atol=1e-6, rtol=0)


def test_coverage_is_of_each_file(model_directory: Path, tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c/eng.txt").write_text(f"{ENGLISH}\n" * 1000, encoding="utf-8")
    (tmp_path / "c/rus.txt").write_text(RUSSIAN, encoding="utf-8")
    report = trim.trim(model_directory, tmp_path / "out", corpus=tmp_path / "c", coverage=0.999)
    assert report.tokens_per_character["rus"][0] == report.tokens_per_character["rus"][1]
    half = trim.trim(model_directory, tmp_path / "half", corpus=tmp_path / "c", coverage=0.5)
    assert half.tokens_after < report.tokens_after
    assert half.tokens_per_character["rus"][1] > half.tokens_per_character["rus"][0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_rows_keep_their_type_and_bits(
    small_tokenizer: Tokenizer, tmp_path: Path, corpus: Path, dtype: torch.dtype
) -> None:
    checkpoint.save(
        random_decoder(SMALL), tmp_path / "m", tokenizer=small_tokenizer, max_seq_length=40,
        prompts={"query": "", "other": "Instruct: A.\nQuery: "}, default_prompt_name="other", matryoshka_dims=[16, 48],
        card="", dtype=dtype,
    )  # fmt: skip
    trim.trim(tmp_path / "m", tmp_path / "out", corpus=corpus)
    old, new = load_file(tmp_path / "m/model.safetensors"), load_file(tmp_path / "out/model.safetensors")
    rows, table = new.pop("embed_tokens.weight"), old.pop("embed_tokens.weight")
    assert rows.dtype == dtype
    assert {tuple(row) for row in rows.tolist()} < {tuple(row) for row in table.tolist()}
    assert all((new[name] == tensor).all() for name, tensor in old.items())
    settings = checkpoint.read_settings(tmp_path / "out")
    assert (settings.default_prompt_name, settings.matryoshka_dims) == ("other", [16, 48])
    assert "# out" in (tmp_path / "out/README.md").read_text(), "a card where there was none"


def test_the_card_grows(model_directory: Path, corpus: Path, tmp_path: Path) -> None:
    report = trim.trim(model_directory, tmp_path / "out", corpus=corpus, coverage=0.5)
    card = (tmp_path / "out/README.md").read_text(encoding="utf-8")
    assert card.startswith("# small\n\n## Trimmed vocabulary\n")
    assert f"{report.tokens_after:,} of 400 tokens" in card
    assert "of each file of `texts`, the most frequent tokens that make up 50% of it" in card
    assert "| swa | 0." in card


def test_trimmed_again_it_stays_the_same(model_directory: Path, corpus: Path, tmp_path: Path) -> None:
    first = trim.trim(model_directory, tmp_path / "out", corpus=corpus, coverage=1.0)
    second = trim.trim(tmp_path / "out", tmp_path / "again", corpus=corpus, coverage=1.0)
    assert second.tokens_before == second.tokens_after == first.tokens_after
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({}, ConfigError, "give --languages, --corpus, or both"),
        ({"languages": ["eng", "xyzzy"]}, ConfigError, "no language 'xyzzy'"),
        ({"languages": ["eng_Abcd"]}, ConfigError, "no script 'Abcd'"),
        ({"languages": ["eng"], "coverage": 0}, ConfigError, "coverage is 0; give a share"),
        ({"corpus": "absent.txt"}, DataError, r"absent.txt cannot be read: No such file"),
        ({"corpus": "folder"}, DataError, "folder holds no .txt file"),
        ({"corpus": "empty.txt"}, DataError, "empty.txt holds no text"),
        ({"corpus": "latin1.txt"}, DataError, r"latin1.txt, line 2: .*0xe9.*; save the file as UTF-8"),
    ],
)
def test_wrong_options(
    model_directory: Path, tmp_path: Path, options: dict[str, object], error: type[F2LLMError], match: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.txt").write_text("\n\r\n")
    (tmp_path / "latin1.txt").write_bytes("one\ncaf\u00e9\n".encode("latin-1"))
    if "corpus" in options:
        options = {"corpus": tmp_path / str(options["corpus"])}
    with pytest.raises(error, match=match):
        trim.trim(model_directory, tmp_path / "out", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_a_table_with_too_few_rows_is_refused(small_tokenizer: Tokenizer, tmp_path: Path) -> None:
    tiny = Tokenizer.train([], 258, 40)
    shape = Shape(hidden=16, layers=1, mlp=16, heads=2, kv_heads=1, head_dim=8, vocab_size=258)
    checkpoint.save(
        random_decoder(shape), tmp_path / "m", tokenizer=tiny, max_seq_length=40, prompts={}, matryoshka_dims=[16],
        card="",
    )  # fmt: skip
    small_tokenizer.save(tmp_path / "m")
    with pytest.raises(ModelError, match="has an id 399, the token table only 258 rows"):
        trim.trim(tmp_path / "m", tmp_path / "out", languages=["eng"])


def test_a_changed_vector_stops_before_writing(
    model_directory: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = trim._with_rows
    monkeypatch.setattr(trim, "_with_rows", lambda decoder, rows, source: right(decoder, np.roll(rows, 1), source))
    with pytest.raises(ModelError, match=r"same pieces got another vector .*nothing was written"):
        trim.trim(model_directory, tmp_path / "out", corpus=corpus)
    assert not (tmp_path / "out").exists()


@pytest.mark.data
def test_qwen3(shared_data: Path, tmp_path: Path) -> None:
    checkpoint.save(
        random_decoder(Shape(16, 1, 16, 2, 1, 8, 151_936)), tmp_path / "m",
        tokenizer=Tokenizer.load(shared_data / "qwen3-tokenizer", 512), max_seq_length=512,
        prompts={"query": "Instruct: Find the same.\nQuery: "}, matryoshka_dims=[8, 16], card="",
    )  # fmt: skip
    (tmp_path / "c").mkdir()
    for code in ("yor", "tha"):
        with gzip.open(next((shared_data / "ntrex-128/NTREX-128").glob(f"*.{code}.txt.gz"))) as packed:
            (tmp_path / f"c/{code}.txt").write_bytes(packed.read())
    report = trim.trim(tmp_path / "m", tmp_path / "out", corpus=tmp_path / "c", coverage=1.0)
    assert report.tokens_before == 151_669
    assert 4_000 < report.tokens_after < 8_000
    assert all(before == after for before, after in report.tokens_per_character.values())
    texts = [line for code in ("yor", "tha") for line in (tmp_path / f"c/{code}.txt").read_text().splitlines()[::20]]
    old, new = Embedder.load(tmp_path / "m"), Embedder.load(tmp_path / "out")
    np.testing.assert_allclose(new.encode_query(texts), old.encode_query(texts), atol=1e-6, rtol=0)
    np.testing.assert_allclose(new.encode(texts), old.encode(texts), atol=1e-6, rtol=0)
