"""Mining from shard to shard: same rows whoever runs it, pools, rows that pass through, a killed run that goes on."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from f2llm.core.errors import DataError
from f2llm.core.files import read_json
from f2llm.core.types import Example
from f2llm.data import mine_files
from f2llm.data.engine import Engine, LocalEngine, RayEngine
from f2llm.data.examples import read_examples, write_examples
from f2llm.data.keys import fold
from f2llm.data.mine import Encoder, MineRules, mine, mine_source
from f2llm.data.ngrams import make_ngram_encoder, ngram_encoder

WORDS = [
    "amber",
    "birch",
    "cedar",
    "delta",
    "ember",
    "fjord",
    "grove",
    "haven",
    "inlet",
    "jetty",
    "knoll",
    "lagoon",
    "marsh",
    "north",
    "ocean",
    "pine",
    "quay",
]
RULES = MineRules(per_query=4, skip_top=1, top_k=12, relative_margin=0.99, max_score=0.9)


def source(count: int, task_type: Any = "retrieval", seed: int = 0) -> list[Example]:
    """Short made-up texts in three languages; some repeat, some bring negatives along, a few bring more than needed."""
    generator = np.random.default_rng(seed)

    def text() -> str:
        return " ".join(generator.choice(WORDS, 3).tolist())

    rows = []
    for number in range(count):
        brought = int(generator.choice([0, 0, 0, 2, 4, 6]))
        label = str(generator.choice(["tree", "water", "land"])) if task_type == "clustering" else None
        lang = str(generator.choice(["eng_Latn", "deu_Latn", "fra_Latn"], p=[0.6, 0.35, 0.05]))
        negatives = tuple(text() for _ in range(brought))
        fields: dict[str, Any] = {"task_type": task_type, "source": "s", "query_lang": "eng_Latn", "doc_lang": lang}
        rows.append(Example(str(number), text(), text(), negatives, label=label, groups=("a", "b"), **fields))
    return rows


def put(folder: Path, rows: list[Example], shards: int) -> Path:
    for number, part in enumerate(np.array_split(np.arange(len(rows)), shards)):
        write_examples(folder / f"{number:05}.parquet", [rows[place] for place in part.tolist()])
    return folder


def run(
    folder: Path, rows: list[Example], shards: int = 1, engine: Engine | None = None, rules: MineRules = RULES
) -> tuple[list[Example], dict[str, Any]]:
    put(folder / "in", rows, shards)
    report = mine_source(folder / "in", folder / "out", make_ngram_encoder, rules, engine or LocalEngine(1))
    assert sorted(path.name for path in (folder / "out").iterdir()) == [
        *(f"{number:05}.parquet" for number in range(shards)), "mining.json",
    ]  # fmt: skip
    stored = read_json(folder / "out" / "mining.json")
    assert stored == report.to_json()
    return list(read_examples(folder / "out")), stored


def in_memory(rows: list[Example], rules: MineRules = RULES) -> tuple[list[Example], dict[str, Any]]:
    mined, report = mine(rows, ngram_encoder(), **vars(rules))
    return mined, report.to_json()


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 99), count=st.integers(1, 60), shards=st.integers(1, 4), same_language=st.booleans(),
    kind=st.sampled_from(["retrieval", "clustering"]), anchor=st.sampled_from(["query", "positive"]),
)  # fmt: skip
def test_shards_are_mined_as_rows_in_memory(
    seed: int, count: int, shards: int, same_language: bool, kind: Any, anchor: Any, tmp_path_factory: Any
) -> None:
    rules = MineRules(**vars(RULES) | {"seed": seed, "same_language": same_language, "anchor": anchor})
    rows = source(count, kind, seed)
    assert run(tmp_path_factory.mktemp("mine"), rows, min(shards, count), rules=rules) == in_memory(rows, rules)


def test_workers_and_shards_change_nothing(tmp_path: Path) -> None:
    rows = source(300)
    engine = LocalEngine(2)
    try:
        assert run(tmp_path, rows, 5, engine) == in_memory(rows)
    finally:
        engine.close()


@pytest.mark.slow
def test_ray_changes_nothing(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    rows = source(300)
    engine = RayEngine(workers=2)
    try:
        assert run(tmp_path, rows, 3, engine) == in_memory(rows)
    finally:
        engine.close()


def test_a_large_language_is_searched_in_pools(tmp_path: Path) -> None:
    rows = source(900)
    rules = MineRules(**vars(RULES) | {"pool": 100})
    mined, report = run(tmp_path, rows, 6, rules=rules)
    own = {lang: {fold(row.positive) for row in rows if row.doc_lang == lang} for lang in ("eng_Latn", "fra_Latn")}
    sizes = []
    for shard in np.array_split(np.arange(len(rows)), 6):
        english = [mined[place] for place in shard.tolist() if rows[place].doc_lang == "eng_Latn"]
        new = {fold(text) for row, old in zip(english, [rows[int(row.id)] for row in english], strict=True)
               for text in row.negatives[len(old.negatives):] if len(old.negatives) < 4}  # fmt: skip
        sizes.append(len(new))
        assert new <= own["eng_Latn"], "nobody had to take another language's"
    assert len(own["eng_Latn"]) > 300
    assert max(sizes) <= 100
    whole, _ = run(tmp_path / "whole", rows, 6)
    french = [place for place, row in enumerate(rows) if row.doc_lang == "fra_Latn"]
    assert [mined[place] for place in french] == [whole[place] for place in french], "one pool: the exact search"
    assert report["rows_searched"] == sum(len(row.negatives) < 4 for row in rows)


def test_the_positive_need_not_be_in_the_pool(tmp_path: Path) -> None:
    rows = [row for row in source(600) if not row.negatives]
    _, split = run(tmp_path / "a", rows, 4, rules=MineRules(**vars(RULES) | {"pool": 30}))
    _, whole = run(tmp_path / "b", rows, 4)
    assert split["positive_scores"] == whole["positive_scores"]
    assert sum(split["negative_scores"]) == split["mined"] > 0


def _no_encoder() -> Encoder:
    raise AssertionError("nothing is to be encoded")


def passed(folder: Path, rows: list[Example], shards: int = 2) -> tuple[list[Example], dict[str, Any]]:
    put(folder / "in", rows, shards)
    report = mine_source(folder / "in", folder / "out", _no_encoder, RULES, LocalEngine(1))
    return list(read_examples(folder / "out")), report.to_json()


def test_rows_that_need_none_pass_through_without_an_encoder(tmp_path: Path) -> None:
    full = [row for row in source(200) if len(row.negatives) >= 4]
    mined, report = passed(tmp_path / "full", full)
    assert [row.negatives for row in mined] == [row.negatives[:4] for row in full]
    assert [row.id for row in mined] == [row.id for row in full]
    assert (report["given"], report["rows_searched"]) == (4 * len(full), 0)
    exact = [row for row in full if len(row.negatives) == 4]
    assert passed(tmp_path / "exact", exact)[0] == exact
    for number in range(2):
        name = f"{number:05}.parquet"
        assert (tmp_path / "exact/in" / name).read_bytes() == (tmp_path / "exact/out" / name).read_bytes()
    for kind in ("classification", "clustering"):
        kept = [Example(**{name: getattr(row, name) for name in row.__slots__} | {"task_type": kind}) for row in full]
        assert passed(tmp_path / kind, kept)[0] == kept, "all that they bring"


def test_clustering_without_labels_takes_no_part(tmp_path: Path) -> None:
    rows = source(80, "clustering")
    bare = [Example(**{name: getattr(row, name) for name in row.__slots__} | {"label": None, "id": f"x{row.id}",
            "positive": f"bare {row.positive}"}) for row in rows]  # fmt: skip
    mined, report = run(tmp_path, [row for pair in zip(rows, bare, strict=True) for row in pair], 3)
    assert mined[1::2] == bare
    alone = in_memory(rows)[1]
    assert all(report[name] == alone[name] for name in ("mined", "topped_up", "negative_scores", "positive_scores"))
    assert not any(text.startswith("bare") for row in mined[::2] for text in row.negatives)
    assert report["rows_searched"] == sum(len(row.negatives) < 4 for row in rows)


def test_only_what_is_searched_is_encoded(tmp_path: Path) -> None:
    rows = [row for row in source(400) if len(row.negatives) >= 4 or row.doc_lang == "fra_Latn"]
    seen = tmp_path / "seen"
    rules = MineRules(**vars(RULES) | {"pool": 10})
    put(tmp_path / "in", rows, 2)
    mine_source(tmp_path / "in", tmp_path / "out", partial(_noting, seen), rules, LocalEngine(1))
    texts = seen.read_text().splitlines()
    french = {row.positive for row in rows if row.doc_lang == "fra_Latn"}
    assert french <= set(texts)
    assert len(texts) == len(set(texts)), "each document once"


def _noting(path: Path) -> Encoder:
    encode = ngram_encoder()

    def noting(texts: list[str]) -> Any:
        with path.open("a") as file:
            file.writelines(f"{text}\n" for text in texts)
        return encode(texts)

    return Encoder(noting, encode)


class _KilledError(Exception):
    pass


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second shard that is searched is not: the process is killed."""
    original, calls = mine_files.mine_shard, list[int]()

    def once(*args: Any, **arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise _KilledError
        return original(*args, **arguments)

    once.__module__, once.__qualname__ = original.__module__, original.__qualname__
    monkeypatch.setattr(mine_files, "mine_shard", once)


def test_a_killed_run_goes_on(tmp_path: Path, interrupted: None) -> None:
    rows, seen = source(200), tmp_path / "seen"
    put(tmp_path / "in", rows, 4)
    make = partial(_noting, seen)
    with pytest.raises(_KilledError):
        mine_source(tmp_path / "in", tmp_path / "out", make, RULES, LocalEngine(1))
    first, written = seen.read_text(), os.stat(tmp_path / "out/00000.parquet").st_mtime_ns
    mine_source(tmp_path / "in", tmp_path / "out", make, RULES, LocalEngine(1))
    assert seen.read_text() == first, "no document is encoded again"
    assert os.stat(tmp_path / "out/00000.parquet").st_mtime_ns == written
    assert list(read_examples(tmp_path / "out")) == in_memory(rows)[0]


def test_work_of_other_rules_is_not_taken_for_this(tmp_path: Path, interrupted: None) -> None:
    put(tmp_path / "in", rows := source(200), 4)
    with pytest.raises(_KilledError):
        mine_source(tmp_path / "in", tmp_path / "out", make_ngram_encoder, RULES, LocalEngine(1))
    rules = MineRules(**vars(RULES) | {"seed": 5, "top_k": 7})
    assert run(tmp_path, rows, 4, rules=rules) == in_memory(rows, rules)


def test_what_is_no_source(tmp_path: Path) -> None:
    rows = [*source(3), *source(3, "clustering")]
    with pytest.raises(DataError, match="one task type, but these rows have clustering, retrieval"):
        run(tmp_path, rows)
    put(tmp_path / "other/out", source(2), 3)
    with pytest.raises(DataError, match=r"00001\.parquet is no shard of this source"):
        run(tmp_path / "other", source(2))
    put(tmp_path / "none/in", [], 1)
    assert run(tmp_path / "none", [])[0] == []
    (tmp_path / "empty").mkdir()
    report = mine_source(tmp_path / "empty", tmp_path / "out", make_ngram_encoder, RULES, LocalEngine(1))
    assert report.rows == 0


def _broken() -> Encoder:
    return Encoder(lambda texts: np.full((len(texts), 4), np.nan, np.float32), ngram_encoder())


def test_an_encoder_that_gives_no_vectors(tmp_path: Path) -> None:
    put(tmp_path / "in", source(20), 1)
    with pytest.raises(DataError, match=r"the encoder gave .* numbers not finite"):
        mine_source(tmp_path / "in", tmp_path / "out", _broken, RULES, LocalEngine(1))


def test_samples_are_rows_to_look_at(tmp_path: Path) -> None:
    rows = source(200)
    mined, report = run(tmp_path, rows, 3)
    assert len(report["samples"]) == 8
    encode = ngram_encoder()
    for sample in report["samples"]:
        row, own = rows[sample["row"]], mined[sample["row"]]
        assert (sample["query"], sample["positive"]) == (row.query, row.positive)
        texts = [negative["text"] for negative in sample["negatives"]]
        kept = len(own.negatives) - len([text for text in own.negatives if text not in row.negatives])
        assert texts == list(own.negatives[kept : kept + len(texts)])
        scores = encode([row.query]) @ encode([row.positive, *texts]).T
        assert np.allclose(scores[0], [sample["positive_score"], *(n["score"] for n in sample["negatives"])], atol=1e-4)
    other = run(tmp_path / "other", rows, 3, rules=MineRules(**vars(RULES) | {"seed": 1}))[1]
    assert {s["row"] for s in other["samples"]} != {s["row"] for s in report["samples"]}
