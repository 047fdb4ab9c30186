"""Normal forms are stable, idempotent and gentle to scripts other than Latin; hashes never change."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from f2llm.data.keys import bare, fold, stable_hash, text_group, tidy


@given(st.text(), st.sampled_from(["eng_Latn", "python"]))
def test_forms_are_idempotent(text: str, lang: str) -> None:
    assert tidy(tidy(text, lang), lang) == tidy(text, lang)
    assert fold(fold(text)) == fold(text)
    assert bare(bare(text)) == bare(text)
    tidy(text, lang).encode("utf-8")


@given(st.text())
def test_bare_is_coarser_than_fold(text: str) -> None:
    assert bare(fold(text)) == bare(text)


def test_tidy() -> None:
    assert tidy(" a \u00a0 b\r\n\r\n\r\n\r\nc\x00\ufeff ") == "a b\n\nc"
    assert tidy("e\u0301") == "é"
    assert tidy("a\ud800") == "a\ufffd"
    assert tidy("می\u200cخواهم") == "می\u200cخواهم", "the zero-width non-joiner is spelling"
    assert tidy("\x1b[31m") == "[31m"


def test_tidy_keeps_the_shape_of_code() -> None:
    code = "\ndef f(a):\n    if a:  \n\n\n\n        return  1\n"
    assert tidy(code, "python") == "def f(a):\n    if a:\n\n\n\n        return  1"
    assert tidy(code) == "def f(a):\n    if a:\n\n        return 1"


def test_tidy_keeps_the_indentation_of_lines() -> None:
    question = "  Why  does this  fail?\n\n\n    if  a:\t\n\t\treturn\t1 \n \t\n\u00a0\u00a0\u3000else: "
    assert tidy(question, "eng_Latn") == "Why does this fail?\n\n    if a:\n\t\treturn 1\n\n   else:"
    assert tidy("\n\n   first\n  second\n") == "first\n  second", "the first line has none"


def test_tidy_takes_no_longer_for_long_runs_of_spaces() -> None:
    assert tidy("a" + " " * 300_000 + "b" + "\t" * 300_000 + "\nc" + " \x00" * 300_000) == "a b\nc"


def test_fold_and_bare() -> None:
    assert fold("  Straße\tＡ ") == "strasse a"
    assert bare("Where's  my card?!") == bare("where s my CARD")
    assert bare("🙂 🙂") == "🙂 🙂"
    assert bare("हिन्दी") == "हिन्दी", "vowel signs are not punctuation"
    assert bare("a+b") != bare("a b c")


def test_stable_hash_never_changes() -> None:
    assert stable_hash("a", 1) == stable_hash("a", "1")
    assert stable_hash("ab") != stable_hash("a", "b")
    assert stable_hash(0, "territory/FR@deu_Latn") == 10360409971744869579
    assert text_group("Hello, World!") == text_group("hello world")
