"""Keywords in many scripts without a list of stop words, and the texts at the centre."""

from __future__ import annotations

import numpy as np
import pytest

from f2llm.apps.cluster_labels import central, headline, keywords, script_names, terms


@pytest.mark.parametrize(
    ("text", "found", "missing"),
    [
        ("The cat's CARD can't wait 24", {"the", "cat's", "card", "can't", "wait"}, {"24", "cat"}),
        ("मुझे हिन्दी में बात", {"मुझे", "हिन्दी", "में", "बात"}, {"ह", "हिन"}),
        ("这是人工智能的研究", {"人工智能", "研究", "人工"}, {"智"}),
        ("ฉันชอบกินข้าวเหนียว", {"ชอบ", "กิน", "ข้าว", "เหนี"}, {"้าว"}),
        ("人工知能の研究をする", {"人工知能", "する"}, set()),
        ("ខ្ញុំចូលចិត្តអាន", {"ចិត្ត", "អាន"}, {"្តអាន"}),
        ("ພາສາລາວ", {"ພາສາ", "ລາວ"}, set()),
        ("မြန်မာစာ", {"မြန်မာ", "မာစာ"}, {"်မာ"}),
        ("می‌خواهم بروم", {"می‌خواهم", "بروم"}, set()),
        ("ማይል ሩጫ", {"ማይል", "ሩጫ"}, set()),
        ("한국어 텍스트", {"한국어", "텍스트"}, set()),
        ("GPT的研究 iPhone手机", {"gpt", "研究", "iphone", "手机"}, {"gpt的"}),
        ("12 ... !?", set(), {"12"}),
    ],
)  # fmt: skip
def test_terms(text: str, found: set[str], missing: set[str]) -> None:
    own = set(terms(text))
    assert found <= own
    assert not own & missing


def test_words_that_are_everywhere_are_no_keywords() -> None:
    cards = [f"the card of the bank is lost {n}" for n in "abcdefgh"]
    songs = [f"the song of the band is loud {n}" for n in "abcdefgh"]
    labels = keywords(cards + songs, ["eng"] * 16, np.repeat([0, 1], 8), 2)
    assert set(labels[0]["eng"]) == {"card", "bank", "lost"}
    assert set(labels[1]["eng"]) == {"song", "band", "loud"}


def test_each_language_has_its_own_keywords() -> None:
    """One cluster has most of the German and Chinese texts: what is frequent in a language is no keyword for that."""
    texts = ["die Karte ist weg", "die Karte ist neu", "die Karte ist da"] * 3 + ["die Musik ist laut"] * 3
    texts += ["银行卡丢失的时候"] * 2 + ["银行卡没有到的"] * 3 + ["音乐的声音"] * 3
    groups = ["deu"] * 12 + ["zho"] * 8
    labels = keywords(texts, groups, np.array([0] * 9 + [1] * 3 + [0] * 5 + [1] * 3), 2)
    assert list(labels[0]) == ["deu", "zho"], "the language with most texts first"
    assert labels[0]["deu"][0] == "karte"
    assert "die" not in labels[0]["deu"]
    assert labels[0]["zho"][0] == "银行卡"
    assert not {"银行", "行卡"} & set(labels[0]["zho"]), "parts of a longer run"
    assert "音乐的声音" in labels[1]["zho"]


def test_rare_languages_and_noise_are_left_out() -> None:
    texts = ["alpha beta"] * 100 + ["gamma delta"] * 2 + ["epsilon zeta"] * 40
    labels = keywords(texts, ["a"] * 100 + ["b"] * 2 + ["c"] * 40, np.array([0] * 102 + [-1] * 40), 1)
    assert list(labels[0]) == ["a"]
    assert labels[0]["a"] == [], "all of its language: nothing to compare with"
    assert headline(labels[0], {"a": 100}) == "(a)"


def test_noise_counts_among_the_others() -> None:
    texts = ["the card is lost"] * 5 + ["the other one is here"] * 5
    labels = keywords(texts, ["eng"] * 10, np.array([0] * 5 + [-1] * 5), 1)
    assert set(labels[0]["eng"]) == {"card", "lost"}


def test_keywords_are_the_same_at_each_run() -> None:
    texts = [f"{word} {number}x text" for word in ("red", "blue") for number in range(700)]
    clusters = np.repeat([0, 1], 700)
    assert keywords(texts, ["eng"] * 1400, clusters, 2, seed=4) == keywords(texts, ["eng"] * 1400, clusters, 2, seed=4)


def test_scripts() -> None:
    texts = ["Hello", "Привет", "你好", "日本のテキスト", "สวัสดี", "123", "नमस्ते"]
    assert script_names(texts) == ["Latin", "Cyrillic", "Han", "Japanese", "Thai", "none", "Devanagari"]


def test_central_texts_differ() -> None:
    assert central([0.3, 0.1, 0.1, 0.2], [0, 1, 2, 3], ["d", "a", "a", "c"], 2) == [1, 3]


def test_headline() -> None:
    labels = {"eng": ["a", "b", "c", "d", "e"], "deu": ["x", "y", "z"], "fra": ["m"]}
    assert headline(labels, {"eng": 70, "deu": 20, "fra": 10}) == "a, b, c, d"
    assert headline(labels, {"eng": 40, "deu": 35, "fra": 25}) == "a, b · x, y · m"
    assert headline({}, {}) == ""
