"""Raw files: gzip or not, and complaints that name the file and the line."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from f2llm.core.errors import ConfigError, DataError
from f2llm.data.readers import find_file, match_files, read_csv, read_json, read_json_lines, read_lines


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
    path.write_text('text\n"never closed\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.csv, line \d: "):
        list(read_csv(path, ["text"]))
    path.write_text("", encoding="utf-8")
    with pytest.raises(DataError, match="no column text"):
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
