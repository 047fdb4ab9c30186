"""Language identification: scripts, claims against findings, and how often py3langid is right on real lines."""

from __future__ import annotations

import gzip
import sys
from collections import Counter
from collections.abc import Sequence, Set
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from f2llm.core.errors import DataError, MissingDependencyError
from f2llm.core.languages import language
from f2llm.data.langid import (
    UNDETERMINED,
    Identifier,
    LanguageCounts,
    Py3langid,
    Remembering,
    compare,
    judge,
    load_identifier,
    macrolanguage,
    main_script,
    main_scripts,
    script_family,
    scripts_of,
)

GERMAN = "Der schnelle braune Fuchs springt über den faulen Hund."


@pytest.fixture(scope="module")
def identifier() -> Identifier:
    pytest.importorskip("py3langid")
    return load_identifier()


class Echo:
    """A model that answers with the script it was asked for."""

    languages: Set[str] = frozenset({"deu_Latn", "rus_Cyrl"})

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []

    def best(self, texts: Sequence[str], scripts: Sequence[str]) -> list[tuple[str, float]]:
        assert not any("\n" in text for text in texts)
        self.asked += Counter(scripts).items()
        return [("deu" if script == "Latn" else "", 0.5) for script in scripts]


@pytest.mark.parametrize(
    ("text", "script", "letters"),
    [
        ("", "Zyyy", 0), ("123 ... 🙂", "Zyyy", 0), ("abc", "Latn", 3), ("ABC где", "Latn", 6),
        ("где abc где", "Cyrl", 9), ("今天天气很好", "Hans", 12), ("今天天氣很好", "Hant", 12), ("人", "Hans", 2),
        ("今日はいい天気です", "Jpan", 18),
        ("カタカナ", "Jpan", 8), ("오늘 날씨가", "Kore", 10), ("韓國 오늘 날씨가", "Kore", 14), ("ߟߌߟߌߦߊ", "Nkoo", 6),
        ("नमस्ते", "Deva", 6), ("ข้อความ", "Thai", 7), ("\ud800\udfff", "Zyyy", 0), ("e\u0301", "Latn", 1),
        ("中文 with a few English words", "Latn", 24), ("中文句子里面有一个 English 词", "Hans", 27),
    ],
)  # fmt: skip
def test_main_script(text: str, script: str, letters: int) -> None:
    assert main_script(text) == (script, letters)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60))
def test_any_text_has_a_script(text: str) -> None:
    script, letters = main_script(text)
    assert len(script) == 4
    assert 0 <= letters <= 2 * len(text)
    assert (script == "Zyyy") == (letters == 0)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.text(st.sampled_from("aé где中気カ한ߟ1.🙂\u0301\ud800 ") | st.characters(), max_size=12), max_size=6)
)
def test_scripts_of_many_texts_at_once(texts: list[str]) -> None:
    assert main_scripts(texts) == [main_script(text) for text in texts]


def test_the_script_limits_the_candidates() -> None:
    model = Echo()
    found = Identifier(model, min_letters=5).identify(
        ["ein\nText", "", "ещё слово", "kurz", "noch ein Text", "1234567"]
    )
    assert found == [("deu_Latn", 0.5), (UNDETERMINED, 0.0), ("und_Cyrl", 0.5), (UNDETERMINED, 0.0), ("deu_Latn", 0.5),
                     (UNDETERMINED, 0.0)]  # fmt: skip
    assert sorted(model.asked) == [("Cyrl", 1), ("Latn", 2)]
    assert Identifier(model).identify([]) == []


@pytest.mark.parametrize(
    ("claimed", "found", "verdict"),
    [
        ("deu_Latn", "deu_Latn", "agree"), ("deu_Latn", "fra_Latn", "disagree"), ("deu_Latn", "und", "too short"),
        ("python", "eng_Latn", "not judged"), ("arb_Arab", "ara_Arab", "agree"),
        ("arz_Arab", "ara_Arab", "macro-language"), ("yue_Hant", "zho_Hant", "macro-language"),
        ("nob_Latn", "nor_Latn", "macro-language"), ("nor_Latn", "nno_Latn", "macro-language"),
        ("cmn_Hans", "zho_Hans", "agree"), ("zho_Hani", "zho_Hant", "agree"),
        ("kor_Hang", "kor_Kore", "agree"), ("jpn_Jpan", "jpn_Hira", "agree"), ("srp_Cyrl", "srp_Latn", "other script"),
        ("srp_Latn", "hrv_Latn", "macro-language"), ("ind_Latn", "msa_Latn", "macro-language"),
        ("bem_Latn", "swa_Latn", "unknown to the model"), ("bem_Latn", "rus_Cyrl", "disagree"),
        ("nqo_Nkoo", "und_Nkoo", "unknown to the model"), ("deu_Latn", "und_Nkoo", "disagree"),
        ("deu_Latn", "zxx_Latn", "disagree"), ("xyz-not-a-tag", "deu_Latn", "disagree"),
        ("ace_Arab", "ara_Arab", "unknown to the model"), ("ace_Latn", "ind_Latn", "disagree"),
    ],
)  # fmt: skip
def test_compare(claimed: str, found: str, verdict: str) -> None:
    known = frozenset({"deu_Latn", "fra_Latn", "nno_Latn", "ace_Latn", "srp_Cyrl", "srp_Latn", "zho_Hani", "ind_Latn"})
    assert compare(claimed, found, known) == verdict
    if verdict != "unknown to the model":
        assert compare(claimed, found) == verdict


def test_a_text_is_asked_for_once() -> None:
    model = Echo()
    identifier = Remembering(Identifier(model, min_letters=5), most=2)
    answers = [
        identifier.identify(texts) for texts in (["ein Text", "kurz", "ein Text"], ["ein Text"], ["ein neuer Text"])
    ]
    assert answers == [[("deu_Latn", 0.5), (UNDETERMINED, 0.0), ("deu_Latn", 0.5)], *[[("deu_Latn", 0.5)]] * 2]
    assert model.asked == [("Latn", 1), ("Latn", 1)]
    identifier.identify(["kurz"])
    identifier.identify(["ein Text"])
    assert model.asked == [("Latn", 1)] * 3, "what is too much is forgotten"


def test_macrolanguages_have_no_chains() -> None:
    assert [macrolanguage(code) for code in ("nob", "arz", "yue", "deu")] == ["nor", "ara", "zho", "deu"]
    assert all(macrolanguage(macrolanguage(code)) == macrolanguage(code) for code in ("quz", "zlm", "uzn", "ckb"))


def test_counts_add_up() -> None:
    identifier, counts = Identifier(Echo(), min_letters=5), LanguageCounts()
    texts = ["ein Text", "ein Text", "x", "print('hello world')", "ещё слово"]
    claimed = ["deu_Latn", "fra_Latn", "deu_Latn", "python", "rus_Cyrl"]
    judged = judge(texts, claimed, identifier, counts)
    assert [verdict for _, _, verdict in judged] == [
        "agree",
        "unknown to the model",
        "too short",
        "not judged",
        "disagree",
    ]
    assert judged[3][:2] == ("python", 0.0), "a programming language is passed over"
    judge(texts[:2], claimed[:2], identifier, counts)
    report = counts.to_json(most=1)
    assert report["texts"] == 7 == sum(report["verdicts"].values())
    assert report["pairs"] == [
        {"claimed": "fra_Latn", "found": "deu_Latn", "verdict": "unknown to the model", "texts": 2}
    ]


# ---- fastText


def fake_fasttext(monkeypatch: pytest.MonkeyPatch, lines_only: bool = True) -> None:
    """A module with the part of fastText's interface that is used; by default that of fasttext-predict."""
    scores = {"__label__deu_Latn": 0.4, "__label__rus_Cyrl": 0.3, "__label__nld_Latn": 0.1, "__label__zho_Hani": 0.2}

    class Model:
        def predict(self, text: Any, k: int, threshold: float) -> Any:
            assert threshold < 0
            if isinstance(text, str) != lines_only:
                raise ValueError("Unable to avoid copy while creating an array as requested.")
            ranked = sorted(scores, key=scores.__getitem__, reverse=True)[: None if k == -1 else k]
            answer = (ranked, [scores[label] for label in ranked])
            return answer if lines_only else ([answer[0]], [answer[1]])

    def load_model(path: str) -> Model:
        if Path(path).read_bytes() != b"model":
            raise ValueError(f"{path} has wrong file format!")
        return Model()

    monkeypatch.setitem(sys.modules, "fasttext", SimpleNamespace(load_model=load_model))  # type: ignore[arg-type]


@pytest.mark.parametrize("lines_only", [True, False])
def test_fasttext_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines_only: bool) -> None:
    fake_fasttext(monkeypatch, lines_only)
    path = tmp_path / "glotlid.bin"
    path.write_bytes(b"model")
    identifier = load_identifier(path)
    assert identifier.model.languages == {"deu_Latn", "rus_Cyrl", "nld_Latn", "zho_Hani"}
    found = identifier.identify([GERMAN, "Быстрая коричневая лиса прыгает", "今天天气很好我们去公园玩", "ߟߌߟߌߦߊ" * 5])
    assert found == [("deu_Latn", pytest.approx(0.8)), ("rus_Cyrl", 1.0), ("zho_Hans", 1.0), ("und_Nkoo", 0.0)]


def test_fasttext_complaints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_fasttext(monkeypatch)
    with pytest.raises(DataError, match="there is no fastText model"):
        load_identifier(tmp_path / "absent.bin")
    (tmp_path / "broken.bin").write_bytes(b"other")
    with pytest.raises(DataError, match="is no fastText model"):
        load_identifier(tmp_path / "broken.bin")
    monkeypatch.setitem(sys.modules, "fasttext", None)  # type: ignore[arg-type]
    with pytest.raises(MissingDependencyError, match=r"f2llm\[glotlid\]"):
        load_identifier(tmp_path / "broken.bin")


def test_py3langid_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)  # type: ignore[arg-type]
    with pytest.raises(MissingDependencyError, match=r"f2llm\[data\]"):
        Py3langid()


# ---- py3langid


def test_py3langid(identifier: Identifier) -> None:
    found = identifier.identify([GERMAN, GERMAN.upper(), GERMAN * 200, "Ово је једна српска реченица.", "\ud800" * 30])
    assert [tag for tag, _ in found] == ["deu_Latn", "deu_Latn", "deu_Latn", "srp_Cyrl", UNDETERMINED]
    assert all(0 <= confidence <= 1 for _, confidence in found)
    assert found[0][1] > 0.9
    assert identifier.identify([GERMAN]) == [found[0]], "an answer does not depend on the texts beside it"
    assert "zho_Hani" in identifier.model.languages
    assert scripts_of("srp") == {"Cyrl", "Latn"}


@settings(max_examples=30, deadline=None)
@given(
    texts=st.lists(
        st.text(st.sampled_from("abcdeé ßXÜ где слово ნინი  ߟ12") | st.characters(), max_size=60), max_size=8
    )
)
def test_many_texts_at_once_are_classified_like_one(identifier: Identifier, texts: list[str]) -> None:
    """As the package itself does it, but for the rounding."""
    model = identifier.model
    assert isinstance(model, Py3langid)
    scripts = [script_family(script) for script, _ in main_scripts(texts)]
    for text, script, (code, confidence) in zip(texts, scripts, model.best(texts, scripts), strict=True):
        alone = model._restricted(script)
        if alone is None:
            assert (code, confidence) == ("", 0.0)
            continue
        ranked = [(model._codes[label], score) for label, score in alone.rank(text)]
        assert confidence == pytest.approx(ranked[0][1], abs=1e-4)
        assert code in [name for name, score in ranked if score > ranked[0][1] - 1e-4]


LINES = 50
HARD = {"nso": "taken for Southern Sotho", "mey": "Arabic letters, while the code's usual script is Latin",
        "shi": "Arabic letters, while the code's usual script is Tifinagh"}  # fmt: skip


def test_ntrex_accuracy(shared_data: Path, identifier: Identifier) -> None:
    """Languages that the model knows: 99% of the lines in the median language, at least 85% in every one but `HARD`."""
    accuracy, unknown = {}, set()
    for path in sorted((shared_data / "ntrex-128" / "NTREX-128").glob("*.txt.gz")):
        code = path.name.split(".")[1]
        tag = language(code).tag
        lines = gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")[:LINES]
        verdicts = [verdict for _, _, verdict in judge(lines, [tag] * len(lines), identifier)]
        assert verdicts.count("too short") <= 3, code
        right = sum(verdict in ("agree", "macro-language") for verdict in verdicts)
        judged = sum(verdict not in ("too short", "unknown to the model") for verdict in verdicts)
        if judged:
            accuracy[code] = right / judged
        else:
            unknown.add(code)
    assert len(accuracy) > 100
    assert {"bem", "div", "wol"} <= unknown
    assert sorted(accuracy.values())[len(accuracy) // 2] > 0.99
    assert {code for code, share in accuracy.items() if share < 0.85} == set(HARD)
