"""From a file to clusters, scores, pictures and a page; what is wrong with a file or a model is told in a sentence."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from f2llm.apps.cluster import Settings, cluster_rows, read_texts, usual_min_size
from f2llm.apps.cluster_facts import agreement, one_language_alone
from f2llm.core.errors import ConfigError, DataError, ModelError
from tests.apps.cluster_vectors import TOPICS, topic_encoder

WORDS = {"eng": "about the", "swa": "kuhusu hiyo", "rus": "про эту"}


def write_table(path: Path, each: int = 12) -> Path:
    """Three topics in three languages, a row without text among them."""
    lines = ["id,text,topic,lang", "0, ,card,eng"]
    for number in range(each):
        for topic in TOPICS:
            for lang, words in WORDS.items():
                lines.append(f"{len(lines)},{topic} {words} {number},{topic},{lang}")
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def run(tmp_path: Path, settings: Settings = Settings(), name: str = "out", **columns: str) -> dict[str, Any]:
    rows = read_texts(write_table(tmp_path / "table.csv"), **columns)
    return cluster_rows(rows, topic_encoder(), tmp_path / name, settings)


def test_from_a_table_to_a_report(tmp_path: Path) -> None:
    facts = run(tmp_path, label="topic", lang="lang")
    assert facts["choice"]["clusters"] == len(facts["clusters"]) == 3
    assert facts["labels"]["ami"] > 0.95
    assert facts["labels"]["v_measure_by_chance"] < 0.2
    assert facts["languages"]["ami"] < 0.05
    assert {lang: found["rows"] for lang, found in facts["labels"]["by_language"].items()} == dict.fromkeys(WORDS, 36)
    first = facts["clusters"][0]
    assert first["languages"] == dict.fromkeys(sorted(WORDS), 12)
    assert all(words[0] in TOPICS for words in first["keywords"].values())
    assert first["one_language"] is None
    assert len(first["examples"]) == 5
    out = tmp_path / "out"
    assert json.loads((out / "clusters.json").read_text(encoding="utf-8")) == facts
    table = pq.read_table(out / "clusters.parquet").to_pydict()
    assert list(table) == ["row", "cluster", "distance", "probability"]
    assert table["row"] == list(range(3, 111)), "lines of the file; the row without text is left out"
    assert set(table["cluster"]) == {0, 1, 2}
    assert all(0 <= value <= 1 for value in table["probability"])
    for picture in ("map.png", "choice.png"):
        assert (out / picture).read_bytes().startswith(b"\x89PNG")


def test_the_page_needs_nothing_from_outside(tmp_path: Path) -> None:
    run(tmp_path, replace(Settings(), colour="language"), label="topic", lang="lang")
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", page)
    assert "$" not in re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL), "no place is left empty"
    [data] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, flags=re.DOTALL)
    points = json.loads(data)
    assert len(points["x"]) == len(points["text"]) == len(points["groups"]["label"]["of"]) == 108
    assert list(points["groups"]) == ["cluster", "language", "label"]
    assert "<option selected>language</option>" in page
    assert "про эту" in page


def test_a_text_cannot_leave_its_place_in_the_page(tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(f"card </script><b>{n}</b> $title" for n in range(30)), encoding="utf-8")
    cluster_rows(read_texts(texts), topic_encoder(), tmp_path / "out", Settings(clusters=2))
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert page.count("</script>") == 2
    assert "<b>3</b>" not in page


def test_the_same_command_gives_the_same_result(tmp_path: Path) -> None:
    assert run(tmp_path, name="one", lang="lang") == run(tmp_path, name="two", lang="lang")
    for name in ("clusters.parquet", "clusters.json", "map.png", "report.html"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_vectors_are_computed_once(tmp_path: Path) -> None:
    calls: list[int] = []
    rows, settings = read_texts(write_table(tmp_path / "table.csv")), Settings(clusters=3, map_rows=0)
    for encoder in (topic_encoder(calls), topic_encoder(calls), topic_encoder(calls, "another")):
        cluster_rows(rows, encoder, tmp_path / "out", settings)
    assert calls == [108, 108], "the second run finds them, another model does not"
    (tmp_path / "out" / "vectors.npy").write_bytes(b"broken")
    cluster_rows(rows, topic_encoder(calls, "another"), tmp_path / "out", settings)
    assert len(calls) == 3
    assert not (tmp_path / "out" / "map.png").exists(), "no map was asked for"


def test_hdbscan_counts_noise(tmp_path: Path) -> None:
    facts = run(tmp_path, Settings(method="hdbscan", min_size=8), label="topic")
    clusters = np.array(pq.read_table(tmp_path / "out" / "clusters.parquet")["cluster"])
    assert facts["noise"] == (clusters == -1).sum()
    assert "choice" not in facts
    assert len(facts["clusters"]) == 3
    nothing = run(tmp_path, Settings(method="hdbscan", min_size=100), name="nothing", label="topic", lang="lang")
    assert nothing["noise"] == 108
    assert nothing["findings"][0].startswith("No cluster: 108 rows, all noise")


def test_clusters_of_one_language_alone_are_told(tmp_path: Path) -> None:
    table = tmp_path / "t.tsv"
    rows = [f"{topic}\t{topic} {number}" for topic in TOPICS for number in range(20)]
    table.write_text("\n".join(["lang\ttext", *rows]), encoding="utf-8")
    facts = cluster_rows(read_texts(table, lang="lang"), topic_encoder(), tmp_path / "out", Settings(clusters=3))
    assert facts["languages"]["explained"] == pytest.approx(1)
    assert {entry["one_language"] for entry in facts["clusters"]} == set(TOPICS)
    assert any("3 of 3 clusters are of one language alone" in line for line in facts["findings"])


def test_one_language_is_only_told_where_others_are_many() -> None:
    assert one_language_alone({"tha": 19, "eng": 1}, {"eng": 100, "tha": 30}) == "tha"
    assert one_language_alone({"eng": 20}, {"eng": 100, "tha": 30}) is None
    assert one_language_alone({"tha": 12, "eng": 8}, {"eng": 100, "tha": 30}) is None


def test_random_clusters_agree_with_nothing() -> None:
    generator = np.random.default_rng(0)
    labels = [str(value) for value in generator.integers(0, 20, 200)]
    found = agreement(labels, generator.integers(0, 40, 200))
    assert abs(found["ami"]) < 0.06
    assert found["v_measure"] == pytest.approx(found["v_measure_by_chance"], abs=0.05)
    assert found["v_measure"] > 0.4


@pytest.mark.parametrize("lines", [["card"], ["card", "card"], ["card"] * 40, ["card", "music"]])
@pytest.mark.parametrize("method", ["kmeans", "hdbscan"])
def test_few_rows_and_equal_rows(lines: list[str], method: str, tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    facts = cluster_rows(read_texts(path), topic_encoder(), tmp_path / "out", Settings(method=method))  # type: ignore[arg-type]
    assert facts["rows"] == len(lines)
    assert len(facts["clusters"]) <= 1
    assert (tmp_path / "out" / "report.html").exists()


def test_twenty_languages_mixed(tmp_path: Path) -> None:
    texts = ["የአየር ሁኔታ", "الطقس اليوم", "আজকের আবহাওয়া", "今天天气", "ο καιρός", "આજનું હવામાન", "מזג האוויר", "आज का मौसम"]
    texts += ["今日の天気です", "აmინდი", "ಹವಾಮಾನ", "អាកាសធាតុ", "오늘 날씨", "ອາກາດ", "കാലാവസ്ഥ", "ရာသီဥတု", "ਮੌਸਮ", "погода"]
    texts += ["වැසි කාලගුණය", "வானிலை", "వాతావరణం", "อากาศวันนี้", "གནམ་གཤིས"]
    path = tmp_path / "t.txt"
    path.write_text("\n".join(f"{text * 3} {topic}" for text in texts for topic in TOPICS), encoding="utf-8")
    facts = cluster_rows(read_texts(path), topic_encoder(), tmp_path / "out", Settings(clusters=3))
    assert sum(entry["rows"] for entry in facts["clusters"]) == 3 * len(texts)
    assert len(facts["clusters"][0]["scripts"]) >= 18


def test_what_is_wrong_is_told(tmp_path: Path) -> None:
    table = write_table(tmp_path / "table.csv")
    with pytest.raises(DataError, match=r"(?s)nothing.*topic"):
        read_texts(table, "nothing")
    with pytest.raises(DataError, match=r"(?s)nowhere.*topic"):
        read_texts(table, lang="nowhere")
    empty = tmp_path / "empty.txt"
    empty.write_text(" \n\n", encoding="utf-8")
    with pytest.raises(DataError, match="no row with a text"):
        read_texts(empty)
    with pytest.raises(DataError, match="there is no file"):
        read_texts(tmp_path / "absent.csv")
    for name in ("binary.csv", "binary.txt", "picture.png"):
        (tmp_path / name).write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40)
        with pytest.raises(DataError, match=f"{name} is no text; give a file of lines or a table"):
            read_texts(tmp_path / name)
    (tmp_path / "utf16.csv").write_text("text\nein Würfel\n", encoding="utf-16")
    assert list(read_texts(tmp_path / "utf16.csv", encoding="utf-16").texts) == ["ein Würfel"]
    rows = read_texts(table)
    for settings, words in (
        (Settings(clusters=109), "--clusters 109 is more than the 108 different texts of the file; give at most 108"),
        (Settings(method="hdbscan", clusters=3), "--clusters is for --method kmeans"),
        (Settings(min_size=3), "--min-size is for --method hdbscan"),
        (Settings(colour="language"), "--colour language needs the languages"),
    ):
        with pytest.raises(ConfigError, match=words):
            cluster_rows(rows, topic_encoder(), tmp_path / "out", settings)
    broken = replace(topic_encoder(), encode=lambda texts: np.full((len(texts), 12), np.nan, np.float32))
    with pytest.raises(ModelError, match="NaN"):
        cluster_rows(rows, broken, tmp_path / "out")
    assert not (tmp_path / "out" / "clusters.json").exists()


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    rows, calls = read_texts(write_table(tmp_path / "table.csv")), list[int]()
    full = tmp_path / "full"
    full.mkdir()
    (full / "report.html").write_text("mine", encoding="utf-8")
    for out in (full, tmp_path / "table.csv"):
        with pytest.raises(ConfigError, match=f"--out {re.escape(str(out))} holds other files than clusters"):
            cluster_rows(rows, topic_encoder(calls), out)
    assert not calls
    assert (full / "report.html").read_text(encoding="utf-8") == "mine"


def test_pictures_of_an_earlier_run_do_not_stay(tmp_path: Path) -> None:
    run(tmp_path)
    assert (tmp_path / "out" / "choice.png").exists()
    run(tmp_path, Settings(clusters=3, map_rows=0))
    assert not list((tmp_path / "out").glob("*.png"))


def test_the_report_says_what_was_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("f2llm.apps.cluster", "f2llm.apps.cluster_fit"):
        monkeypatch.setattr(f"{module}.FULL_ROWS", 60)
    facts = run(tmp_path, Settings(method="hdbscan", min_size=5, map_rows=0))
    assert facts["made"]["learnt from"].startswith("60 of the rows; each other one goes where its nearest")
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "learnt from: 60 of the rows" in page


def test_the_usual_smallest_cluster() -> None:
    assert [usual_min_size(rows) for rows in (10, 1_000, 20_000, 10**6)] == [5, 6, 28, 28]
