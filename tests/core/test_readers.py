"""Raw files: gzip or not, and complaints that name the file and the line."""

from __future__ import annotations

import gzip
import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from f2llm.core import readers
from f2llm.core.errors import ConfigError, DataError
from f2llm.core.readers import (
    TOO_LONG,
    aligned_lines,
    find_file,
    match_files,
    read_conll,
    read_csv,
    read_json,
    read_json_array,
    read_json_lines,
    read_json_rows,
    read_lines,
    read_xml,
)


def test_gzip_is_found_and_read_like_plain(tmp_path: Path) -> None:
    text = "\ufeffeins\r\nzwei\u2028still zwei\n\ndrei"
    (tmp_path / "a.txt").write_bytes(text.encode())
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(text.encode()))
    plain, packed = (list(read_lines(find_file(tmp_path, name))) for name in ("a.txt", "b.txt"))
    assert plain == packed == [(1, "eins"), (2, "zwei\u2028still zwei"), (3, ""), (4, "drei")]
    with pytest.raises(DataError, match=r"no file .*c\.txt"):
        find_file(tmp_path, "c.txt")


def test_damaged_text(tmp_path: Path) -> None:
    bad = tmp_path / "bad.txt"
    bad.write_bytes("gut\nschön\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"bad\.txt, line 2: not utf-8 text"):
        list(read_lines(bad))
    assert [line for _, line in read_lines(bad, "latin-1")] == ["gut", "schön"]
    with pytest.raises(ConfigError, match="no encoding 'utf-9'"):
        list(read_lines(bad, "utf-9"))
    packed = tmp_path / "bad.gz"
    packed.write_bytes(gzip.compress(b"line\n" * 10_000)[:-12])
    with pytest.raises(DataError, match=r"bad\.gz cannot be read after line"):
        list(read_lines(packed))


def test_json(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"a": 1,\n "b": }', encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.json, line 2: not valid JSON"):
        read_json(path)
    path.write_text('{"a": 1}\n\n{"a": 2}\n[3]\n', encoding="utf-8")
    rows = read_json_lines(path)
    assert [next(rows), next(rows)] == [(1, {"a": 1}), (3, {"a": 2})]
    with pytest.raises(DataError, match=r"a\.json, line 4: an object is needed, not list"):
        next(rows)
    path.write_text("{\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.json, line 1: not valid JSON"):
        next(read_json_lines(path))


def test_csv(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('text,label\n"two\nlines, ""quoted""",x\nplain,y\n', encoding="utf-8")
    assert list(read_csv(path, ["text"])) == [
        (3, {"text": 'two\nlines, "quoted"', "label": "x"}),
        (4, {"text": "plain", "label": "y"}),
    ]
    with pytest.raises(DataError, match="no column category; columns: text, label"):
        list(read_csv(path, ["category"]))
    path.write_text('text\tlabel\nsay "hi\tx\nshort\n', encoding="utf-8")
    rows = read_csv(path, ["text"], delimiter="\t", quoted=False)
    assert next(rows) == (2, {"text": 'say "hi', "label": "x"})
    with pytest.raises(DataError, match=r"a\.csv, line 3: 1 cells, but 2 columns"):
        next(rows)
    path.write_text("text,text\na,b\n", encoding="utf-8")
    with pytest.raises(DataError, match="two columns text; columns: text, text"):
        list(read_csv(path, ["text"]))


def test_patterns(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("x.en.json", "x.pt-BR.json.gz", "sub/x.de.json", "xaen.json"):
        (tmp_path / name).touch()
    found = {names["code"]: path.name for path, names in match_files(tmp_path, "x.{code}.json")}
    assert found == {"en": "x.en.json", "pt-BR": "x.pt-BR.json.gz"}
    assert [names for _, names in match_files(tmp_path, "sub/{a}.{b}.json")] == [{"a": "x", "b": "de"}]
    with pytest.raises(DataError, match="no file below"):
        match_files(tmp_path, "y.{code}")


ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32-be", "gb18030", "latin-1", "cp037", "utf-7"]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_any_encoding(encoding: str, tmp_path: Path) -> None:
    words = ["éins", "zwei; drei", "vier"] if encoding in ("latin-1", "cp037") else ["éins", "二\u2028三", "四"]
    path = tmp_path / "x.json"

    def write(text: str) -> None:
        path.write_bytes(text.encode(encoding))

    write("\n".join(words) + "\n\n")
    assert list(read_lines(path, encoding)) == [(1, words[0]), (2, words[1]), (3, words[2]), (4, "")]
    assert list(aligned_lines(path, encoding)) == list(read_lines(path, encoding))
    rows = [{"t": word} for word in words]
    write(json.dumps(rows, ensure_ascii=False))
    assert read_json(path, encoding) == [row for _, row in read_json_array(path, encoding)] == rows
    write("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    assert [row for _, row in read_json_rows(path, encoding)] == rows
    write(json.dumps({"1": rows[0], "2": rows[1]}, ensure_ascii=False, indent=1))
    assert [row["t"] for _, row in read_json_rows(path, encoding)] == words[:2]
    write("t,u\n" + "".join(f'"{word}",\n' for word in words))
    assert [row["t"] for _, row in read_csv(path, ["t"], ",", encoding)] == words
    write("".join(f"# text = {word}\n\n" for word in words))
    assert [block["text"] for _, block in read_conll(path, encoding)] == words


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "iso-8859-1", "GB18030", "windows-1251", "Shift_JIS"])
def test_xml_declares_its_encoding(encoding: str, tmp_path: Path) -> None:
    text = {"iso-8859-1": "schön", "windows-1251": "текст"}.get(encoding, "漢字")
    path = tmp_path / "x.xml"
    path.write_bytes(f'<?xml version="1.0" encoding="{encoding}"?>\n<a><b>{text}</b></a>'.encode(encoding))
    assert read_xml(path)[0].text == text
    (tmp_path / "y.xml.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert read_xml(find_file(tmp_path, "y.xml"))[0].text == text


def test_faults_of_an_encoding_have_a_line(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes('[\n{"t": "ä"},\n{"t": "ö"}]'.encode().replace("ö".encode(), b"\xf6"))
    for read in (read_json, lambda path: list(read_json_array(path)), lambda path: list(read_json_rows(path))):
        with pytest.raises(DataError, match=r"x\.json, line 3: not utf-8 text; give the `encoding`"):
            read(path)
    path.write_bytes("one\ntwo".encode("utf-16")[:-1])
    with pytest.raises(DataError, match=r"x\.json, line \d: not utf-16 text"):
        list(read_lines(path, "utf-16"))
    for name in ("", "rot13", "hex", "utf-8\0", "klingon"):
        with pytest.raises(ConfigError, match="there is no encoding"):
            next(read_lines(path, name))


@settings(deadline=None, max_examples=150)
@given(
    texts=st.lists(st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]), max_size=12), min_size=1),
    encoding=st.sampled_from(["utf-8", "utf-16", "gb18030"]),
    limit=st.integers(1, 12),
    ends=st.booleans(),
)
def test_lines_over_the_limit_keep_their_numbers(texts: list[str], encoding: str, limit: int, ends: bool) -> None:
    texts = [text.lstrip("\ufeff") for text in texts]
    if not ends and not texts[-1]:
        texts = [*texts, "x"]
    sizes = [len(text) if encoding == "utf-16" else len(text.encode(encoding)) for text in texts]
    expected = [text.rstrip("\r") if size <= limit else None for text, size in zip(texts, sizes, strict=True)]
    drops: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(readers, "LINE_LIMIT", limit)
        path = Path(folder) / "x.txt"
        path.write_bytes(("\n".join(texts) + ("\n" if ends else "")).encode(encoding))
        assert list(aligned_lines(path, encoding)) == list(enumerate(expected, 1))
        kept = [(number, text) for number, text in enumerate(expected, 1) if text is not None]
        assert list(read_lines(path, encoding, drops)) == kept
        assert drops[TOO_LONG] == len(texts) - len(kept)
        if drops:
            with pytest.raises(DataError, match=r"x\.txt, line \d+: longer than 16 MB; shorten or remove it"):
                list(read_lines(path, encoding))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=150)
@given(
    values=st.lists(VALUES, max_size=6),
    chunk=st.integers(1, 40),
    indent=st.sampled_from([None, 0, 3]),
    ascii_only=st.booleans(),
)
def test_an_array_is_the_same_wherever_it_is_cut(values: list[Any], chunk: int, indent: int, ascii_only: bool) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(readers, "_CHUNK", chunk)
        path = Path(folder) / "x.json"
        text = json.dumps(values, indent=indent, ensure_ascii=ascii_only)
        path.write_text(f" \n{text}\n", encoding="utf-8", errors="surrogatepass" if not ascii_only else "strict")
        assert list(read_json_array(path)) == list(enumerate(values, 1))


def test_an_element_of_an_array_is_bounded_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "LINE_LIMIT", 100)
    monkeypatch.setattr(readers, "_CHUNK", 16)
    path = tmp_path / "x.json"
    path.write_text('[\n"a",\n"' + "b" * 1_000 + '"]', encoding="utf-8")
    array = read_json_array(path)
    assert next(array) == (1, "a")
    with pytest.raises(DataError, match=r"line 3: element 2 is longer than 16 MB, or not valid JSON \(Unterminated"):
        next(array)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ('{"a": {"b": 1}}\n{"a": {"b": 2}}\n', [{"a": {"b": 1}}, {"a": {"b": 2}}]),
        ('{"a": {"b": 1}}\n', [{"key": "a", "b": 1}]),
        ('\n \n[{"a": 1},\n{"a": 2}]', [{"a": 1}, {"a": 2}]),
        ("[]", []),
        ("{}", []),
    ],
)
def test_forms_of_json_rows(text: str, rows: list[Any], tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text, encoding="utf-8")
    assert [row for _, row in read_json_rows(tmp_path / "x.json")] == rows
    (tmp_path / "x.jsonl").write_text('{"a": {"b": 1}}\n', encoding="utf-8")
    assert [row for _, row in read_json_rows(tmp_path / "x.jsonl")] == [{"a": {"b": 1}}], "a row, as the name says"


def test_a_key_that_comes_twice(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"1": {"q": "a"},\n "1": {"q": "b"}}', encoding="utf-8")
    with pytest.raises(DataError, match=r"x\.json: the key '1' comes twice in one object; give each row its own"):
        list(read_json_rows(tmp_path / "x.json"))
