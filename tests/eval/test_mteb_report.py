"""The report on benchmarks with made-up results: a page that stands alone, tables, pictures, what it says."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from f2llm.core.pictures import INK
from f2llm.eval import mteb_charts
from f2llm.eval.by_language import Cell, language_rows, script_grid, subset_tags
from f2llm.eval.mteb_charts import Dot, name_places, pareto_front
from f2llm.eval.mteb_page import MANY_TASKS, findings, largest, overall_verdict
from f2llm.eval.mteb_report import ModelFacts, collect, stated, write_mteb_report
from f2llm.eval.significance import PairedTest
from tests.eval.sample_mteb import sample
from tests.eval.test_report import Outline


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mteb_report(tmp_path_factory.mktemp("report"), replace(sample(), title="A & <b>B</b>")).parent


@pytest.fixture(scope="module")
def content(written: Path) -> Any:
    return json.loads((written / "report.json").read_text(encoding="utf-8"))


def table(written: Path, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader((written / "tables" / f"{name}.csv").read_text(encoding="utf-8").splitlines()))


def test_page_stands_alone_and_is_well_formed(written: Path) -> None:
    page = (written / "report.html").read_text(encoding="utf-8")
    outline = Outline()
    outline.feed(page)
    assert (outline.loads, outline.stack) == ([], [])
    assert set(outline.anchors) <= set(outline.ids)
    assert len(outline.ids) == len(set(outline.ids))
    assert page.count("<svg") == 6
    assert not re.search(r"url\(http|@import", page)
    assert INK not in page.split("</style>")[1]
    assert "<b>B</b>" not in page
    assert "A &amp; &lt;b&gt;B&lt;/b&gt;" in page
    assert "give --data the folder" in page


def test_pictures_and_tables_are_written(written: Path) -> None:
    names = {"dimensions", "pareto", "scripts", "significance", "sizes", "students"}
    assert {path.stem for path in (written / "figures").iterdir()} == names
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (written / "figures").iterdir())
    assert {path.stem for path in (written / "tables").iterdir()} == {
        "models", "results", "benchmarks", "languages", "scripts", "dimensions", "students", "significance",
    }  # fmt: skip


def test_tables_agree_with_the_results(written: Path) -> None:
    data, results = sample(), table(written, "results")
    assert len(results) == len(data.results)
    mine = [r.main_score for r in data.results if (r.model, r.dims, r.precision) == ("mini-base", 128, "float32")]
    base = next(row for row in table(written, "models") if row["model"] == "mini-base")
    assert float(base["mean"]) == pytest.approx(np.mean([score for score in mine if score is not None]))
    assert (base["parameters"], base["teacher"], base["failed"]) == ("1690000", "", "0")
    assert next(row["error"] for row in results if row["error"]).startswith("its data are not in")
    half = [r.main_score or 0 for r in data.results if (r.model, r.dims, r.precision) == ("mini-tiny", 32, "int8")]
    row = next(r for r in table(written, "dimensions") if (r["model"], r["dims"], r["precision"]) == (
        "mini-tiny", "32", "int8"))  # fmt: skip
    assert float(row["mean"]) == pytest.approx(np.mean(half))


def test_best_model_first_and_worst_languages_first(content: Any) -> None:
    means = [model["mean"] for model in content["models"]]
    assert means == sorted(means, reverse=True)
    assert content["reference"] == content["models"][0]["model"] == "mini-base"
    relative = [row["relative"]["mini-base"] for row in content["languages"]]
    assert relative == sorted(relative)
    assert content["grids"][0]["scripts"][0] == "Ethiopic"


def test_students_are_beside_their_teachers(content: Any) -> None:
    models = {model["model"]: model for model in content["models"]}
    assert [(entry["student"], entry["teacher"]) for entry in content["students"]] == [
        ("mini-small", "mini-base"), ("mini-tiny", "mini-base"),
    ]  # fmt: skip
    entry = content["students"][0]
    assert entry["kept"] == pytest.approx(models["mini-small"]["mean"] / models["mini-base"]["mean"])


def test_sizes_stand_beside_published_models_with_all_tasks(content: Any) -> None:
    found = content["sizes"]
    assert (found["benchmark"], found["of"]) == ("MTEB(Multilingual, v2)", 131)
    assert {point["model"] for point in found["points"] if point["ours"]} == {m["model"] for m in content["models"]}
    assert sum(not point["ours"] for point in found["points"]) >= 15


def test_findings_claim_only_what_is_clear(content: Any) -> None:
    said = " ".join(findings(content))
    assert "mini-small keeps 9" in said
    assert "2 of 14 tasks are flagged" in said
    assert "1 result failed and counts nowhere" in said
    test = {"a": "A", "b": "B", "difference": 0.02, "low": -0.01, "high": 0.05, "pairs": 9, "unit": "tasks"}
    assert overall_verdict(test | {"clear": False}).startswith("No clear difference between A and B (+2.0")
    assert overall_verdict(test | {"clear": True}).startswith("A is ahead of B")
    assert overall_verdict(test | {"clear": True, "difference": -0.02}).startswith("B is ahead of A")


def test_one_model_without_any_facts_has_a_report_too(tmp_path: Path) -> None:
    data = sample()
    bare = [
        replace(r, scores_by_language={}, scores_by_query={}, tokens_per_second=None)
        for r in data.results
        if (r.model, r.dims, r.precision) == ("mini-small", 96, "float32")
    ]
    page = write_mteb_report(tmp_path, replace(data, results=bare, facts={}, benchmarks=["MTEB(Code, v1)"]))
    text = page.read_text(encoding="utf-8")
    assert "<svg" not in text
    for heading in ("Significance", "Student and teacher", "Dimensions", "Languages", "Failed"):
        assert f"<h2>{heading}</h2>" not in text


def test_many_tasks_do_not_break_the_pictures(tmp_path: Path) -> None:
    data = sample()
    chosen = [r for r in data.results if r.model in ("mini-base", "mini-tiny") and r.precision == "float32"]
    many = [replace(r, task=f"{r.task}{n}") for r in chosen if r.dims in (64, 128) for n in range(4)]
    drawn = collect(replace(data, results=many, benchmarks=["MTEB(Code, v1)"]))["tests"]
    assert len(drawn) > MANY_TASKS + 1
    kept = largest({"a - b": [PairedTest(**{k: v for k, v in test.items() if k != "clear"}) for test in drawn]})[
        "a - b"
    ]
    assert (len(kept), kept[0].task) == (MANY_TASKS + 1, None)
    least = min(abs(test.difference) for test in kept[1:])
    assert all(abs(t["difference"]) <= least for t in drawn if t["task"] not in {test.task for test in kept})
    assert write_mteb_report(tmp_path, replace(data, results=many, benchmarks=["MTEB(Code, v1)"])).exists()


def test_a_teacher_that_was_not_evaluated_is_no_pair() -> None:
    data = sample()
    alone = [r for r in data.results if r.model == "mini-small"]
    assert collect(replace(data, results=alone))["students"] == []


def test_files_of_results_state_sizes_and_languages(tmp_path: Path) -> None:
    entry = asdict(sample().results[0]) | {
        "model_facts": {"parameters": 5, "width": 128}, "languages": {"default": ["eng-Latn"]},
    }  # fmt: skip
    (tmp_path / "x.json").write_text(json.dumps(entry), encoding="utf-8")
    facts, subsets = stated([tmp_path])
    assert facts == {entry["model"]: ModelFacts(parameters=5, dims=128)}
    assert subsets == {entry["task"]: {"default": ["eng-Latn"]}}


def test_files_of_results_link_students_to_teachers_by_weights_and_state_footprints(tmp_path: Path) -> None:
    """The teacher is known by the digest of its weights; what it is called has changed since."""
    names = {
        "mini-base": None,
        "mini-small": {"name": "base", "weights": "aa"},
        "mini-tiny": {"name": "?", "weights": "zz"},
    }
    measured = {"weights_mb": 3.0, "memory_mb": 400.5, "memory_before_mb": 300.0, "tokens_per_second": 9.0,
                "hardware": "a CPU", "device": "cpu", "date": "2026-01-31"}  # fmt: skip
    for name, teacher in names.items():
        result = next(r for r in sample().results if r.model == name)
        facts = {"parameters": 5, "width": 128, "weights_sha256": "aa" if name == "mini-base" else name,
                 "teacher": teacher, "footprint": measured}  # fmt: skip
        (tmp_path / f"{name}.json").write_text(json.dumps(asdict(result) | {"model_facts": facts}), encoding="utf-8")
    found, _ = stated([tmp_path])
    assert {name: facts.teacher for name, facts in found.items()} == {
        "mini-base": None, "mini-small": "mini-base", "mini-tiny": None,
    }  # fmt: skip
    assert found["mini-base"] == ModelFacts(
        parameters=5, dims=128, weights_mb=3.0, memory_mb=400.5, memory_before_mb=300.0, tokens_per_second=9.0,
        measured="a CPU, cpu, 2026-01-31",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("subset", "stated_tags", "tags"),
    [
        ("swh_Latn", (), ("swa_Latn",)),
        ("eng_Latn-ces_Latn", (), ("ces_Latn",)),
        ("ces_Latn-deu_Latn", (), ("ces_Latn", "deu_Latn")),
        ("en-ha", (), ("hau_Latn",)),
        ("zh-CN", (), ("zho_Hans",)),
        ("zh-TW", (), ("zho_Hant",)),
        ("en", (), ("eng_Latn",)),
        ("python", (), ("python",)),
        ("default", (), ()),
        ("default", ("kor-Hang",), ("kor_Kore",)),
        ("default", ("eng-Latn",), ("eng_Latn",)),
    ],
)
def test_languages_of_subsets(subset: str, stated_tags: tuple[str, ...], tags: tuple[str, ...]) -> None:
    assert subset_tags(subset, stated_tags) == tags


def test_a_language_is_placed_by_its_distance_from_the_means_of_tasks() -> None:
    hard = [Cell("m", "hard", "A", "deu_Latn", 0.3), Cell("m", "hard", "A", "rus_Cyrl", 0.1)]
    easy = [Cell("m", "easy", "B", "amh_Ethi", 0.8), Cell("m", "easy", "B", "rus_Cyrl", 0.9)]
    lone = [Cell("m", "lone", "C", "ell_Grek", 0.05)]
    rows = {row["tag"]: row["relative"]["m"] for row in language_rows([*hard, *easy, *lone], ["m"])}
    assert list(rows) == ["amh_Ethi", "rus_Cyrl", "deu_Latn", "ell_Grek"]
    assert rows["amh_Ethi"] == pytest.approx(-0.05)
    assert rows["rus_Cyrl"] == pytest.approx((-0.1 + 0.05) / 2)
    assert rows["ell_Grek"] is None
    grid = script_grid([*hard, *easy], "m")
    assert (grid["types"], grid["scripts"]) == (["A", "B"], ["Ethiopic", "Cyrillic", "Latin"])
    assert grid["scores"] == [[None, 0.8], [0.1, 0.9], [0.3, None]]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12))
def test_the_front_is_what_nothing_dominates(points: list[tuple[float, float]]) -> None:
    front = pareto_front(points)
    assert front
    beaten = {n for n, (x, y) in enumerate(points) if any((a >= x and b >= y) and (a, b) != (x, y) for a, b in points)}
    assert set(front) == set(range(len(points))) - beaten


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 250), st.booleans()), min_size=1, max_size=25))
def test_names_of_published_models_cover_nothing(spots: list[tuple[int, int, bool]]) -> None:
    dots = [Dot(f"model-{n}", 1.0, y / 250, ours=ours) for n, (_, y, ours) in enumerate(spots)]
    points = [(float(x), float(y)) for x, y, _ in spots]
    placed = name_places(dots, points)
    assert {dot.name for dot in dots if dot.ours} <= {dot.name for dot, _ in placed}
    boxes = []
    for dot, (dx, dy, side) in placed:
        x, y = points[dots.index(dot)]
        font = mteb_charts._font(dot)
        wide, left = 0.58 * font * len(dot.name), x + dx
        left -= wide * {"left": 0, "right": 1, "center": 0.5}[side]
        boxes.append((dot.ours, left, y + dy - 0.55 * font, left + wide, y + dy + 0.55 * font))
    for n, (ours, left, low, right, high) in enumerate(boxes):
        for other in boxes[:n]:
            overlap = left < other[3] - 1e-6 and other[1] < right - 1e-6
            assert ours or not (overlap and low < other[4] - 1e-6 and other[2] < high - 1e-6)


def test_panels_share_their_scale_and_long_titles_are_broken() -> None:
    def test(a: str, b: str, reach: float) -> PairedTest:
        return PairedTest(a=a, b=b, task="T", unit="queries", pairs=9, score_a=0.5, score_b=0.5 - reach,
                          difference=reach, low=0.0, high=2 * reach, p=0.01, p_corrected=0.01)  # fmt: skip

    long = ("a-model-with-a-very-long-name", "another-model-with-a-name")
    drawn = mteb_charts.significance({"a - b": [test("a", "b", 0.01)], " - ".join(long): [test(*long, 0.2)]})
    assert len({axes.get_xlim() for axes in drawn.axes}) == 1
    assert [axes.get_title(loc="left") for axes in drawn.axes] == ["a - b", f"{long[0]}\n- {long[1]}"]
    pairs = {
        name: [mteb_charts.Pair("T", score, 0.9)] for name, score in (("s, teacher t", 0.1), ("u, teacher t", 0.8))
    }
    assert len({axes.get_xlim() for axes in mteb_charts.students(pairs).axes}) == 1
