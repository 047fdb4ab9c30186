"""Snippets show the part with the query's words, and mark these."""

from __future__ import annotations

from f2llm.apps.snippets import matches, snippet


def marked(text: str, *words: str) -> list[str]:
    return [text[start:end] for start, end in matches(text, words)]


def test_words_match_without_case_and_accents() -> None:
    assert marked("Das Café, CAFE und Cafés", "cafe") == ["Café", "CAFE"]
    assert marked("Straße İstanbul", "straße", "istanbul") == ["Straße", "İstanbul"]
    assert marked("a.b* (x)", "b*", "") == ["b*"]


def test_scripts_without_spaces_match_inside() -> None:
    assert marked("北京是中国的首都", "中国", "首都") == ["中国", "首都"]
    assert marked("สวัสดีครับ", "ครับ") == ["ครับ"]


def test_the_part_with_most_words_is_shown() -> None:
    text = "Nothing here. " * 30 + "The sea in the north is cold. " + "More of it. " * 30
    part, places = snippet(text, ["sea", "north"], width=80)
    assert part.startswith("…The sea in the north is cold.")
    assert part.endswith("…")
    assert len(part) <= 82
    assert [part[start:end] for start, end in places] == ["sea", "north"]


def test_a_short_text_is_shown_whole_on_one_line() -> None:
    assert snippet("one\n\ntwo", ["two"]) == ("one two", [(4, 7)])
    assert snippet("", ["x"]) == ("", [])
    assert snippet("x" * 500, [])[0] == "x" * 240 + "…"
