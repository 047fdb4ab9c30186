"""Caps: exact numbers of rows, the same ones every time, and a fair share for small languages."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from f2llm.core.errors import ConfigError
from f2llm.core.types import Example
from f2llm.data.caps import choose_rows, language_quotas
from f2llm.data.examples import read_examples, write_examples

TAGS = ("eng_Latn", "swh_Latn", "yor_Latn")
ALPHAS = st.sampled_from([1.0, 0.7, 0.5, 0.1])


def example(key: str, lang: str = "eng_Latn") -> Example:
    return Example(key, "q", "p", (), "retrieval", "s", lang, "eng_Latn")


def written(directory: Path, rows: list[tuple[str, str]], shards: int = 1) -> Path:
    """Rows of (id, language) as shards."""
    for number, part in enumerate(np.array_split(np.arange(len(rows)), shards)):
        write_examples(directory / f"{number:05}.parquet", (example(*rows[i]) for i in part))
    return directory


def rows_of(files: dict[str, dict[str, int]]) -> list[tuple[str, str]]:
    """Rows by file and language; languages alternate as they do in a shuffled file."""
    rows = [(f"{file}/{i}", lang) for file, counts in files.items() for lang, n in counts.items() for i in range(n)]
    return [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]


def test_a_source_is_cut_as_before(tmp_path: Path) -> None:
    path = written(tmp_path, rows_of({"a": {"eng_Latn": 100}}), shards=3)
    kept = choose_rows(path, 30, per="source", seed=5, stage=2)
    assert kept is not None
    assert set(kept.tolist()) == set(np.random.default_rng([5, 2]).permutation(100)[:30].tolist())
    assert (np.diff(kept) > 0).all()


@pytest.mark.parametrize("per", ["source", "file"])
@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_nothing_is_cut_that_fits(tmp_path: Path, per: str, alpha: float) -> None:
    path = written(tmp_path, rows_of({"a": {"eng_Latn": 5, "swh_Latn": 5}}))
    assert choose_rows(path, 10, per=per, seed=0, stage=2, alpha=alpha) is None  # type: ignore[arg-type]
    assert len(choose_rows(path, 9, per=per, seed=0, stage=2, alpha=alpha)) == 9  # type: ignore[arg-type]


def test_a_source_without_rows_is_not_cut(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", written(tmp_path / "none", [])):
        assert choose_rows(path, 1, per="file", seed=0, stage=2) is None


def test_parts_of_a_file_are_one_unit(tmp_path: Path) -> None:
    ids = ["paq/0", "paq/1", "paq_part2/0", "paq_part12/0", "part/0", "a_part2_b/0", "x/y_part2/3"]
    path = written(tmp_path, [(key, "eng_Latn") for key in ids], shards=2)
    kept = choose_rows(path, 1, per="file", seed=0, stage=2)
    assert kept is not None
    assert [int(row) for row in kept if row > 3] == [4, 5, 6]
    assert len(kept) == 4


def test_an_id_without_a_file_is_told(tmp_path: Path) -> None:
    path = written(tmp_path, [("a/1", "eng_Latn"), ("17", "eng_Latn")])
    with pytest.raises(ConfigError, match="the id '17' names no file"):
        choose_rows(path, 1, per="file", seed=0, stage=2)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    files=st.dictionaries(
        st.sampled_from(["a", "b", "c_part2"]), st.dictionaries(st.sampled_from(TAGS), st.integers(1, 30), min_size=1),
        min_size=1,
    ),
    cap=st.integers(1, 40),
    alpha=ALPHAS,
    shards=st.integers(1, 3),
)  # fmt: skip
def test_every_unit_keeps_exactly_its_quota(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, dict[str, int]], cap: int, alpha: float, shards: int
) -> None:
    rows = rows_of(files)
    path = written(tmp_path_factory.mktemp("rows"), rows, shards)
    kept = choose_rows(path, cap, per="file", seed=3, stage=2, alpha=alpha)
    chosen = np.arange(len(rows)) if kept is None else kept
    found = Counter(rows[i][0].split("/")[0] for i in chosen)
    assert found == {file: min(cap, sum(counts.values())) for file, counts in files.items()}
    assert (np.diff(chosen) > 0).all()
    assert (kept is None) == (len(chosen) == len(rows))
    if kept is not None:
        again = choose_rows(path, cap, per="file", seed=3, stage=2, alpha=alpha)
        np.testing.assert_array_equal(again, kept)
        languages = Counter(tuple(rows[i][0].split("/")[0:1]) + rows[i][1:] for i in kept)
        assert all(languages[file, lang] <= count for file, own in files.items() for lang, count in own.items())


def test_other_files_do_not_change_the_choice_in_one(tmp_path: Path) -> None:
    rows = rows_of({"a": {"eng_Latn": 40}})
    alone = choose_rows(written(tmp_path / "1", rows), 10, per="file", seed=0, stage=2)
    path = written(tmp_path / "2", [*rows_of({"b": {"eng_Latn": 25}}), *rows])
    both = choose_rows(path, 10, per="file", seed=0, stage=2)
    assert alone is not None
    assert both is not None
    np.testing.assert_array_equal(both[both >= 25] - 25, alone)
    other = choose_rows(path, 10, per="file", seed=1, stage=2)
    assert other is not None
    assert (other != both).any()


@pytest.mark.parametrize("per", ["source", "file"])
def test_small_languages_get_more_than_their_share(tmp_path: Path, per: str) -> None:
    path = written(tmp_path, rows_of({"a": {"eng_Latn": 900, "swh_Latn": 90, "yor_Latn": 10}}), shards=2)
    langs = [row.query_lang for row in read_examples(path)]
    kept = choose_rows(path, 200, per=per, seed=0, stage=2, alpha=0.5)  # type: ignore[arg-type]
    assert kept is not None
    # Square roots 30, 9.49 and 3.16: 200 * 3.16 / 42.65 = 14.8 is more than the 10 rows of Yoruba; 190 are left.
    assert Counter(langs[i] for i in kept) == {"eng_Latn": 144, "swh_Latn": 46, "yor_Latn": 10}


@settings(max_examples=300, deadline=None)
@given(counts=st.lists(st.integers(1, 10**6), min_size=1, max_size=60), share=st.floats(0, 1), alpha=ALPHAS)
def test_quotas_fill_like_water(counts: list[int], share: float, alpha: float) -> None:
    sizes = np.array(counts)
    cap = max(1, int(share * sizes.sum()))
    quotas = language_quotas(sizes, cap, alpha)
    assert quotas.sum() == min(cap, sizes.sum())
    assert ((quotas >= 0) & (quotas <= sizes)).all()
    # Who still has rows left stands within one row of one level; who is full stands at most a row above it.
    left = quotas < sizes
    if left.any():
        weights = sizes.astype(float) ** alpha
        low = ((quotas[left] - 1) / weights[left]).max()
        assert low <= ((quotas[left] + 1) / weights[left]).min() + 1e-9
        assert ((quotas[~left] - 1) / weights[~left] <= ((quotas[left] + 1) / weights[left]).min() + 1e-9).all()


def test_rows_of_a_language_are_drawn_evenly(tmp_path: Path) -> None:
    path = written(tmp_path, [(f"a/{i}", TAGS[i % 2]) for i in range(400)])
    drawn = Counter[int]()
    for seed in range(60):
        kept = choose_rows(path, 100, per="file", seed=seed, stage=2, alpha=0.5)
        assert kept is not None
        drawn.update((kept // 100).tolist())
    # 1,500 of 6,000 are expected of each quarter; the standard deviation is below 34.
    assert all(abs(drawn[quarter] - 1500) < 150 for quarter in range(4))
