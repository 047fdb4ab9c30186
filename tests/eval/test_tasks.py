"""Tasks out of held-out rows."""

from __future__ import annotations

import pytest

from f2llm.core.errors import DataError
from f2llm.eval.tasks import build_task
from tests.eval.fakes import example


def test_retrieval_gathers_every_positive_of_a_query_text() -> None:
    rows = [
        example("Wien", "Vienna", lang="deu_Latn"),
        example("Wien", "Vienna", lang="deu_Latn"),
        example("Wien", "Vienna (city)", lang="nds_Latn"),
        example("Rom", "Rome", lang="deu_Latn"),
    ]
    task = build_task("names", "retrieval", rows, ["Paris", "Rome"], instruction="Find it.", symmetric=True)
    assert task.documents == ("Vienna", "Vienna (city)", "Rome", "Paris")
    assert list(zip(task.queries, task.query_langs, task.relevant, strict=True)) == [
        ("Wien", "deu_Latn", (0, 1)),
        ("Wien", "nds_Latn", (0, 1)),
        ("Rom", "deu_Latn", (2,)),
    ]
    assert (task.instruction, task.symmetric) == ("Find it.", True)


def test_clustering_keeps_anchors_and_labels() -> None:
    rows = [example("euro", "yen", label="currency"), example("Peru", "Chad", label="country", lang="deu_Latn")]
    task = build_task("classes", "clustering", [*rows, rows[0]], instruction=None, symmetric=True)
    assert task.queries == ("euro", "Peru")
    assert task.labels == ("currency", "country")
    assert task.query_langs == ("eng_Latn", "deu_Latn")


def test_classification_points_at_right_and_wrong_label() -> None:
    rows = [example("good", "positive", negatives=("negative",)), example("bad", "negative", negatives=("positive",))]
    task = build_task("moods", "classification", rows, instruction=None, symmetric=False)
    assert task.documents == ("positive", "negative")
    assert task.pairs == ((0, 1), (1, 0))


@pytest.mark.parametrize(
    ("kind", "rows", "message"),
    [
        ("retrieval", [], "held-out"),
        ("clustering", [example("a", "b")], "needs a label"),
        ("classification", [example("a", "b")], "wrong label"),
    ],
)
def test_what_is_missing_is_named(kind: str, rows: list, message: str) -> None:
    with pytest.raises(DataError, match=message):
        build_task("name", kind, rows, instruction=None, symmetric=False)
