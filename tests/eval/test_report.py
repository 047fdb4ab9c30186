"""The report on made-up scores: complete JSON, a page that stands alone, pictures, intervals, curves."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from f2llm.core.errors import DataError
from f2llm.core.pictures import INK
from f2llm.eval import charts
from f2llm.eval.findings import verdict
from f2llm.eval.html import duration
from f2llm.eval.report import Comparison, collect, read_curve, smooth, write_report
from tests.eval.sample_report import model, sample

LANGUAGES = ["deu_Latn", "fra_Latn", "swa_Latn", "rus_Cyrl", "amh_Ethi", "zho_Hans", "urd_Arab", "python", "xx_unknown"]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(tmp_path_factory.mktemp("report"), sample(LANGUAGES)).parent


def test_json_holds_what_other_programs_need(written: Path) -> None:
    content = json.loads((written / "report.json").read_text(encoding="utf-8"))
    assert [m["name"] for m in content["models"]][:3] == ["mini-base", "mini-small", "mini-tiny"]
    for entry in content["models"]:
        assert {"name", "parameters", "dims", "stage", "teacher", "scores", "baseline", "tokens_per_second"} <= set(
            entry
        )
        assert set(entry["scores"]) == set(entry["baseline"]) == {"translation", "kind", "place", "macro"}
    assert content["best"] == "mini-base"
    names = {row["tag"]: (row["name"], row["script"]) for row in content["languages"]}
    assert names["amh_Ethi"] == ("Amharic", "Ethiopic")
    assert names["zho_Hans"] == ("Chinese", "Simplified Han")
    assert names["python"] == ("Python", "programming")
    assert names["xx_unknown"] == ("xx_unknown", "unknown")


class Outline(HTMLParser):
    """Collects what a page loads from elsewhere, its ids, its anchors and its unclosed elements."""

    VOID = {"meta", "input", "br", "link", "img"}

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.anchors: list[str] = []
        self.stack: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.ids += [values["id"]] if values.get("id") else []
        self.anchors += [values["href"][1:]] if tag == "a" else []
        self.loads += [values[key] for key in ("src", "srcset", "data") if values.get(key)]
        self.loads += [values["href"]] if tag == "link" else []
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.stack.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag


def test_page_stands_alone_and_is_well_formed(written: Path) -> None:
    page = (written / "report.html").read_text(encoding="utf-8")
    outline = Outline()
    outline.feed(page)
    assert outline.loads == []
    assert outline.stack == []
    assert set(outline.anchors) <= set(outline.ids)
    assert len(outline.ids) == len(set(outline.ids))
    assert page.count("<svg") == 7
    assert "url(http" not in page
    assert "@import" not in page
    assert INK not in page.split("</style>")[1]
    assert "$" not in re.sub(r"<script>.*</script>", "", page, flags=re.DOTALL)


def test_page_escapes_what_comes_from_data(written: Path) -> None:
    page = (written / "report.html").read_text(encoding="utf-8")
    assert "<b>Japan</b>" not in page
    assert "&lt;b&gt;Japan&lt;/b&gt;" in page


def test_further_measures_are_shown_with_what_they_mean(written: Path) -> None:
    page = (written / "report.html").read_text(encoding="utf-8")
    assert "Other measures" in page
    assert "adjusted mutual information" in page


def test_pictures_are_written(written: Path) -> None:
    names = sorted(path.name for path in (written / "figures").iterdir())
    assert names == [
        "comparisons.png", "curves.png", "dimensions.png", "languages.png", "progress.png", "scripts.png", "sizes.png",
    ]  # fmt: skip
    assert all((written / "figures" / name).read_bytes().startswith(b"\x89PNG") for name in names)


def test_a_build_without_extras_has_a_report_too(tmp_path: Path) -> None:
    data = sample(LANGUAGES[:1])
    bare = replace(data, models=[data.models[1]], comparisons=(), curves=(), steps=(), searches=(), facts={})
    page = write_report(tmp_path, bare).read_text(encoding="utf-8")
    assert "What helped" not in page
    assert len(list((tmp_path / "figures").iterdir())) == 4


def test_many_models_do_not_break_the_pictures(tmp_path: Path) -> None:
    data = sample(LANGUAGES)
    family = [
        model(f"model-{n}", "family", 10**6 * 2**n, 32 * 2 ** (n // 2), 0.3 + 0.01 * n, LANGUAGES) for n in range(12)
    ]
    assert write_report(tmp_path, replace(data, models=family, comparisons=())).exists()


def test_comparison_is_paired_by_language() -> None:
    content = collect(sample(LANGUAGES))
    found = content["comparisons"][0]
    scores = {entry["name"]: entry for entry in content["models"]}
    rows = [row["scores"] for row in content["languages"]]
    differences = [row[found["a"]] - row[found["b"]] for row in rows]
    assert found["difference"] == pytest.approx(np.mean(differences))
    assert found["low"] < found["difference"] < found["high"]
    assert found["score_a"] == pytest.approx(scores[found["a"]]["scores"]["macro"])
    assert found["better"] + found["worse"] == len(LANGUAGES)


def test_words_claim_no_winner_where_the_interval_holds_zero() -> None:
    entry = {"a": "A", "b": "B", "languages": 9, "difference": 0.01, "low": -0.01, "high": 0.03}
    assert verdict(entry).startswith("no clear difference between A and B")
    assert verdict(entry | {"low": 0.001}).startswith("A is ahead of B")
    assert verdict(entry | {"difference": -0.02, "low": -0.03, "high": -0.01}).startswith("B is ahead of A")


def test_mistakes_are_named() -> None:
    data = sample(LANGUAGES)
    with pytest.raises(DataError, match="'absent'"):
        collect(replace(data, comparisons=[Comparison(title="t", a="mini-tiny", b="absent")]))
    with pytest.raises(DataError, match="at least one"):
        collect(replace(data, models=[]))


def test_curves_are_read_by_source_and_smoothed(tmp_path: Path) -> None:
    lines = [json.dumps({"step": n, "source": "ab"[n % 2], "loss": 2.0 + (n % 4 < 2)}) for n in range(2000)]
    file = tmp_path / "metrics.jsonl"
    lines.insert(1000, json.dumps({"step": 1000, "kind": "evaluation", "ndcg@10": 0.1234567, "by_source": {}}))
    lines.insert(500, json.dumps({"step": 500, "kind": "evaluation", "error": "no luck"}))
    file.write_text("\n".join([*lines, '{"step": 2000, "sou']), encoding="utf-8")
    curve = read_curve(file, model="m", stage=2, points=50)
    assert set(curve.points) == {"a", "b"}
    assert len(curve.points["a"]) == 50
    assert curve.points["a"][0][0] == 0
    assert curve.points["a"][-1][0] == 1998
    assert curve.scores == [(1000, 0.12346)]
    assert all(2.4 < loss < 2.6 for _, loss in curve.points["a"][1:-1])
    with pytest.raises(DataError, match="training curve"):
        read_curve(tmp_path / "absent.jsonl", model="m", stage=2)


def test_smoothing_a_short_run_keeps_every_point() -> None:
    assert smooth([(0, 3.0), (5, 2.0), (9, 1.0)], 100) == [(0, 3.0), (5, 2.0), (9, 1.0)]


def test_spread_keeps_labels_apart_and_near() -> None:
    values = [0.5, 0.501, 0.502, 0.9, 0.1]
    places = charts.spread(values, 0.05)
    assert np.diff(sorted(places)).min() >= 0.05 - 1e-9
    assert places[3:] == [0.9, 0.1]
    assert np.argsort(places).tolist() == np.argsort(values).tolist()


def test_small_words() -> None:
    assert [duration(s) for s in (1.26, 42.3, 312, 7500)] == ["1.3 s", "42 s", "5 min 12 s", "2 h 5 min"]
    assert [charts.short(n) for n in (1_250_000, 640_000, 999, 13_990_394_880)] == ["1.25M", "640k", "999", "14B"]
