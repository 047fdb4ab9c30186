"""Local tasks: mteb's own classes over the real files, and what is said where the files are not right."""

import gzip
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from f2llm.core.errors import ConfigError, DataError
from f2llm.eval.local_tasks import LOCAL_TASKS, local_tasks
from f2llm.eval.local_tasks_files import read_lines, read_rows
from f2llm.eval.local_tasks_shapes import SearchParts, bitext, classes, clusters, drawn

mteb = pytest.importorskip("mteb")
check_language_code = pytest.importorskip("mteb.languages").check_language_code

# Subsets and the rows of each: pairs, texts to cluster, texts to learn from and to classify, queries and documents.
SIZES = {
    "LocalNTREXBitextMining": (12, 200), "LocalTatoebaBitextMining": (12, 50),
    "LocalXQuADRetrieval": (12, 60, 60), "LocalXQuADCrossLingualRetrieval": (11, 60, 60),
    "LocalMLQARetrieval": (19, 40, 60), "LocalCMRC2018Retrieval": (1, 200, 300),
    "LocalPQuADRetrieval": (1, 200, 300), "LocalMedQuADRetrieval": (1, 210, 247), "LocalAfriQARetrieval": (8, 60, 100),
    "LocalCoSQARetrieval": (1, 200, 800), "LocalMBXPRetrieval": (6, 100, 150), "LocalText2SQLRetrieval": (3, 100, 180),
    "LocalXQuADReranking": (12, 60, 60), "LocalMedQuADReranking": (1, 209, 247),
    "LocalBanking77Classification": (1, 770, 770), "LocalNusaXClassification": (12, 48, 90),
    "LocalAfriSentiClassification": (12, 48, 99), "LocalWisesightClassification": (1, 48, 300),
    "LocalSIB200Classification": (12, 42, 57), "LocalBanking77Clustering": (1, 1848), "LocalCSLClustering": (1, 650),
    "LocalSTSBMultilingualSTS": (11, 150), "LocalKorSTS": (1, 500), "LocalJSTS": (1, 500),
    "LocalPawsXPairClassification": (7, 200), "LocalKLUENLIPairClassification": (1, 500),
    "LocalJNLIPairClassification": (1, 500),
}  # fmt: skip
DOUBLES = 2  # equal texts are one: at most so many questions, passages or statements of a subset come twice
# The subset to score: one whose two sides share letters, where there are several.
SUBSETS = {
    "LocalNTREXBitextMining": "deu_Latn-eng_Latn", "LocalTatoebaBitextMining": "deu-eng",
    "LocalXQuADCrossLingualRetrieval": "es-en", "LocalMLQARetrieval": "deu-eng", "LocalAfriQARetrieval": "hau-en",
    "LocalMBXPRetrieval": "python", "LocalNusaXClassification": "jav", "LocalAfriSentiClassification": "hau",
    "LocalSIB200Classification": "eng_Latn",
}  # fmt: skip
# Trigrams tell little of pairs of the same words with another meaning, and too little for 57 sentences or short titles.
BLIND = {
    "LocalPawsXPairClassification", "LocalKLUENLIPairClassification", "LocalJNLIPairClassification",
    "LocalCSLClustering", "LocalSIB200Classification",
}  # fmt: skip


class _Encoder:
    """mteb's protocol of an encoder over a function of one text."""

    def __init__(self, model_name: str = "fake", revision: str | None = None, **_: Any) -> None:
        empty = pytest.importorskip("mteb.models").ModelMeta.create_empty()
        self.mteb_model_meta = empty.model_copy(update={"name": f"fake/{model_name}", "revision": revision or "1"})

    def vector(self, text: str) -> np.ndarray:
        raise NotImplementedError

    def encode(self, inputs: Any, **_: Any) -> np.ndarray:
        found = np.stack([self.vector(text) for batch in inputs for text in batch["text"]]).astype(np.float32)
        return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> np.ndarray:
        return np.asarray(embeddings1) @ np.asarray(embeddings2).T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> np.ndarray:
        return (np.asarray(embeddings1) * np.asarray(embeddings2)).sum(axis=1)


class Trigrams(_Encoder):
    """Letters in threes, hashed into 512 buckets."""

    def vector(self, text: str) -> np.ndarray:
        codes = np.array([ord(letter) for letter in f"  {text.lower()} "], dtype=np.uint64)
        hashed = (codes[:-2] * 1_000_003 + codes[1:-1] * 8_191 + codes[2:] * 131) % 509
        return np.sqrt(np.bincount(hashed.astype(np.int64), minlength=512))


class Chance(_Encoder):
    """A random vector for each text."""

    def vector(self, text: str) -> np.ndarray:
        return np.random.default_rng(zlib.crc32(text.encode())).standard_normal(64)


def sizes(task: Any, subset: str) -> tuple[int, ...]:
    found = task.dataset.get(subset, task.dataset)
    if "train" in found:
        return len(found["train"]), len(found["test"])
    part = found["test"]
    return (len(part["queries"]), len(part["corpus"])) if isinstance(part, dict) else (len(part),)


def main_score(encoder: _Encoder, task: Any) -> float:
    result = mteb.evaluate(encoder, task, cache=None, show_progress_bar=False, co2_tracker=False).task_results[0]
    return float(result.scores["test"][0]["main_score"])


def test_every_task_of_the_table_is_one_of_mteb() -> None:
    known = {task.metadata.name for task in mteb.get_tasks(exclude_superseded=False)}
    assert set(SIZES) == {task.name for task in LOCAL_TASKS}
    assert len(LOCAL_TASKS) == len(SIZES)
    assert not known & set(SIZES)
    assert {task.mirrors for task in LOCAL_TASKS} - {None} <= known
    tags = {tag for task in LOCAL_TASKS for tags in task.subsets.values() for tag in tags}
    for tag in tags - {"kotlin-Code"}:  # which mteb does not know
        check_language_code(tag)


# Ten seconds and more of a core each; other tasks of their types are scored.
LONG = {"LocalBanking77Classification", "LocalBanking77Clustering", "LocalWisesightClassification"}


@pytest.mark.data
@pytest.mark.parametrize("name", SIZES)
def test_each_task_has_the_counted_rows(shared_data: Path, name: str) -> None:
    (task,) = local_tasks(shared_data, [name])
    assert isinstance(task, mteb.AbsTask)
    task.load_data()
    subsets, *expected = SIZES[name]
    assert len(task.hf_subsets) == subsets
    assert task.metadata.eval_splits == ["test"]
    for subset in task.hf_subsets:
        for count, most in zip(sizes(task, subset), expected, strict=True):
            assert most - DOUBLES <= count <= most, subset


@pytest.mark.data
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name in SIZES if name not in LONG])
def test_mteb_scores_each_task(shared_data: Path, name: str) -> None:
    (task,) = local_tasks(shared_data, [name])
    if len(task.hf_subsets) > 1:
        task.filter_languages(None, hf_subsets=[SUBSETS.get(name, task.hf_subsets[0])])
    found = main_score(Trigrams("trigrams"), task)
    assert 0 < found < 1
    if name not in BLIND:
        assert found > main_score(Chance("chance"), task) + 0.05


@pytest.mark.data
def test_cross_lingual_questions_are_those_of_the_language(shared_data: Path) -> None:
    tasks = local_tasks(shared_data, ["LocalXQuADRetrieval", "LocalXQuADCrossLingualRetrieval", "LocalXQuADReranking"])
    for task, subset in zip(tasks, ("de", "de-en", "de"), strict=True):
        task.filter_languages(None, hf_subsets=[subset])
        task.load_data()
    own, cross, rerank = (
        task.dataset[subset]["test"] for task, subset in zip(tasks, ("de", "de-en", "de"), strict=True)
    )
    assert own["queries"]["text"] == cross["queries"]["text"] == rerank["queries"]["text"]
    assert own["relevant_docs"] == cross["relevant_docs"]
    assert not set(own["corpus"]["text"]) & set(cross["corpus"]["text"])
    assert all(len(ids) == 5 and set(rerank["relevant_docs"][query]) < set(ids)
               for query, ids in rerank["top_ranked"].items())  # fmt: skip


def write_tatoeba(data: Path, lines: str = "Hallo.\nTag!\n") -> Path:
    folder = data / "tatoeba-v1-sample"
    folder.mkdir(exist_ok=True)
    (folder / "tatoeba.deu-eng.deu").write_text(lines)
    (folder / "tatoeba.deu-eng.eng").write_text("Hello.\nGood day!\n")
    return folder


def german(data: Path) -> Any:
    (task,) = local_tasks(data, ["LocalTatoebaBitextMining"])
    return task.filter_languages(None, hf_subsets=["deu-eng"])


def test_only_the_subsets_asked_for_are_read(tmp_path: Path) -> None:
    write_tatoeba(tmp_path)
    task = german(tmp_path)
    task.load_data()
    assert list(task.dataset) == ["deu-eng"]
    assert task.dataset["deu-eng"]["test"]["sentence1"] == ["Hallo.", "Tag!"]
    (whole,) = local_tasks(tmp_path, ["LocalTatoebaBitextMining"])
    with pytest.raises(DataError, match=r"no file .*tatoeba\.afr-eng\.afr"):
        whole.load_data()


def test_the_revision_is_of_the_files(tmp_path: Path) -> None:
    write_tatoeba(tmp_path)
    before = german(tmp_path).metadata.revision
    assert german(tmp_path).metadata.revision == before
    write_tatoeba(tmp_path, "Hallo.\nGuten Tag!\n")
    assert german(tmp_path).metadata.revision != before


def test_files_that_are_not_right_are_named(tmp_path: Path) -> None:
    folder = write_tatoeba(tmp_path, "Hallo.\n")
    with pytest.raises(DataError, match=r"has 1 lines .* not aligned"):
        german(tmp_path).load_data()
    (folder / "tatoeba.deu-eng.deu").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"deu-eng\.deu: byte 0 is not UTF-8"):
        german(tmp_path).load_data()
    (tmp_path / "jglue" / "jnli-v1.3").mkdir(parents=True)
    path = tmp_path / "jglue" / "jnli-v1.3" / "valid-v1.3.json"
    for content, message in (
        ("{", "line 1: not valid JSON"),
        ("[]", "line 1: an object is needed"),
        ('{"sentence1": "a"}', "'sentence2' is missing"),
        ('{"sentence1": "a", "sentence2": "b", "label": "neutral"}', "has no row for the task"),
        (" ", "is empty"),
    ):
        path.write_text(content)
        (task,) = local_tasks(tmp_path, ["LocalJNLIPairClassification"])
        with pytest.raises(DataError, match=message):
            task.load_data()


def test_tables(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('text,label\n"a, ""b""\nc",x\n')
    assert read_rows(path, ("text", "label"), header=True) == [{"text": 'a, "b"\nc', "label": "x"}]
    with pytest.raises(DataError, match="column 'score' is missing; there are text, label"):
        read_rows(path, ("text", "score"), header=True)
    path.write_text("a,b\nc\n")
    with pytest.raises(DataError, match="row 2: 2 cells are needed, not 1"):
        read_rows(path, ("text", "label"), header=False)
    path.write_text('"a\tb\n')
    assert read_rows(path, ("text", "label"), header=False, tabs=True) == [{"text": '"a', "label": "b"}]


def test_compressed_lines(tmp_path: Path) -> None:
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress("one\u2028still one\r\n\ntwo\n".encode()))
    assert read_lines(tmp_path / "a.txt") == ["one\u2028still one", "", "two"]
    (tmp_path / "a.txt.gz").write_bytes(b"\x1f\x8b\x08 no")
    with pytest.raises(DataError, match=r"a\.txt cannot be read"):
        read_lines(tmp_path / "a.txt")


def test_a_name_that_is_none_is_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no local task 'LocalXQuaD'; perhaps 'LocalXQuAD"):
        local_tasks(tmp_path, ["LocalXQuaD"])
    with pytest.raises(DataError, match="there is no folder"):
        local_tasks(tmp_path / "absent")


@given(st.lists(st.text(), unique=True), st.integers(0, 20), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_what_is_drawn_does_not_depend_on_the_order(rows: list[str], most: int, random: Any) -> None:
    chosen = drawn(rows, most, str)
    assert len(chosen) == min(most, len(rows))
    assert chosen == [row for row in rows if row in chosen]
    assert set(chosen) <= set(drawn(rows, most + 1, str))
    random.shuffle(rows)
    assert set(drawn(rows, most, str)) == set(chosen)


def test_no_text_is_both_learnt_from_and_classified() -> None:
    rows = [(f"text {number}", "ab"[number % 2]) for number in range(20)] + [
        ("text 0", "a"),
        ("both", "a"),
        ("both", "b"),
    ]
    found = classes(rows, 8, 4)
    assert [found["train"]["label"].count(label) for label in (0, 1)] == [5, 5]  # half of ten
    assert [found["test"]["label"].count(label) for label in (0, 1)] == [4, 4]
    assert not set(found["train"]["text"]) & set(found["test"]["text"])
    assert "both" not in [*found["train"]["text"], *found["test"]["text"]]
    held = classes(rows, 8, 4, [("text 1", "b"), ("new", "a")])
    assert "text 1" not in held["train"]["text"]
    assert dict(zip(held["test"]["text"], held["test"]["label"], strict=True)) == {"new": 0, "text 1": 1}


def test_clusters_and_bitext_have_each_text_once() -> None:
    found = clusters([("a", "x"), ("a", "x"), ("b", "x"), ("c", "y"), (" ", "y")], 1)["test"]
    assert found["labels"] == ["x", "y"]
    assert found["sentences"][0] in ("a", "b")
    pairs = bitext([("eins", "one"), ("ein", "one"), ("", "none"), ("zwei", "two")], 9)["test"]
    assert pairs == {"sentence1": ["eins", "zwei"], "sentence2": ["one", "two"]}


def test_equal_documents_are_one_right_answer() -> None:
    parts = SearchParts()
    parts.query("q", "same", ["same", "other"])
    parts.query("q", "second", ["same", "other"])
    parts.query("alone", "single", ["single"])
    found = parts.search(rerank=True)
    assert list(found.queries.values()) == ["q"]
    texts = {name: found.documents[name] for name in found.candidates["q0"]}
    assert sorted(texts.values()) == ["other", "same", "second"]
    assert {texts[name] for name in found.relevant["q0"]} == {"same", "second"}
    assert parts.search().candidates is None
    assert set(parts.search().queries.values()) == {"q", "alone"}
