"""Broken data files: one sentence that names the file, or a row that is left out and counted; never a traceback."""

from __future__ import annotations

import bz2
import gzip
import json
import os
import random
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from f2llm.core.errors import ConfigError, DataError
from f2llm.core.readers import LINE_LIMIT, TOO_LONG
from f2llm.core.types import Example
from f2llm.data.convert import convert
from f2llm.data.converter import Drops
from f2llm.data.keys import tidy
from tests.data.test_arrow import data_set, feather_file, ipc_file, stream

COUNT = 60
PAIRS = {"language": "en", "query": ["q"], "positive": ["p"]}
TWO_WAY = {"language": "en", "classes": {"x.good": "good", "x.bad": "bad"}}
TABLE = pa.table({"q": [f"query {n}" for n in range(COUNT)], "p": [f"positive é {n}" for n in range(COUNT)]})
ROWS: list[dict[str, Any]] = TABLE.to_pylist()
RELEASED = pa.table({"query": TABLE["q"], "passage": TABLE["p"], "negative_1": ["n"] * COUNT})
DIALOGUES = [
    {"messages": [{"role": "user", "content": r["q"]}, {"role": "assistant", "content": r["p"]}]} for r in ROWS
]
MBXP = [
    {"task_id": f"M/{n}", "language": "python", "description": r["q"], "canonical_solution": r["p"]}
    for n, r in enumerate(ROWS)
]
COSQA = [{"idx": str(n), "doc": r["q"], "code": r["p"], "label": 1} for n, r in enumerate(ROWS)]
SQL = [{"sql": [r["p"]], "variables": [], "sentences": [{"text": r["q"], "variables": {}}]} for r in ROWS]
SQUAD = {"data": [{"paragraphs": [{"context": r["p"], "qas": [{"id": "1", "question": r["q"]}]}]} for r in ROWS]}
XML = "".join(f"<QAPair><Question>{r['q']}</Question><Answer>{r['p']}</Answer></QAPair>\n" for r in ROWS)
UDHR = "".join(f"<article number='{n}'><para>{r['p']}</para></article>\n" for n, r in enumerate(ROWS))
BIBLE = "".join(f"<seg id='b.MAT.1.{n}' type='verse'>{r['p']}</seg>\n" for n, r in enumerate(ROWS, 1))


class Format(NamedTuple):
    """A converter with the file that is broken; `write` makes a whole one, and `beside` what lies beside it."""

    converter: str
    options: dict[str, Any]
    name: str
    write: Callable[[Path], object]
    beside: dict[str, str] = {}

    def lay(self, root: Path) -> Path:
        """Write all files below `root` and return the one to break."""
        for name, text in self.beside.items():
            (root / name).write_text(text, encoding="utf-8")
        path = root / self.name
        path.parent.mkdir(exist_ok=True)
        self.write(path)
        return path


def text(content: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(content, encoding="utf-8")


def lines(values: Any) -> Callable[[Path], object]:
    return text("".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values))


def document(value: Any, indent: int | None = 1) -> Callable[[Path], object]:
    return text(json.dumps(value, ensure_ascii=False, indent=indent))


def table(separator: str) -> Callable[[Path], object]:
    cells = [["q", "p"], *([f'"{r["q"]}"', f'"{r["p"]}"'] if separator == "," else [r["q"], r["p"]] for r in ROWS)]
    return text("".join(separator.join(row) + "\n" for row in cells))


QUERIES, POSITIVES = ("".join(row[side] + "\n" for row in ROWS) for side in ("q", "p"))
TEXTS = {
    "bitext": Format(
        "bitext_lines", {"files": ["x.{code}"], "pairs": [["en", "fr"]]}, "x.fr", text(POSITIVES), {"x.en": QUERIES}
    ),
    "bitext classes": Format("bitext_classes", {"files": ["x.{code}"]}, "x.fr", text(POSITIVES), {"x.en": QUERIES}),
    "two files": Format("lines_two_way", TWO_WAY, "x.bad", text(POSITIVES), {"x.good": QUERIES}),
    "lines": Format("text_lines", {"files": "x.{code}"}, "x.en", text(POSITIVES)),
    "csv": Format("pairs_table", PAIRS | {"files": "x.csv"}, "x.csv", table(",")),
    "tsv": Format("pairs_table", PAIRS | {"files": "x.tsv"}, "x.tsv", table("\t")),
    "json lines": Format("pairs_table", PAIRS | {"files": "x.jsonl"}, "x.jsonl", lines(ROWS)),
    "json of lines": Format("pairs_table", PAIRS | {"files": "x.json"}, "x.json", lines(ROWS)),
    "json array": Format("pairs_table", PAIRS | {"files": "x.json"}, "x.json", document(ROWS, None)),
    "json object": Format(
        "pairs_table", PAIRS | {"files": "x.json"}, "x.json", document({str(n): row for n, row in enumerate(ROWS)})
    ),
    "dialogues": Format("conversations", {"language": "en", "files": "x.jsonl"}, "x.jsonl", lines(DIALOGUES)),
    "squad": Format("squad", {"files": "x.{code}"}, "x.en", document(SQUAD)),
    "mbxp": Format("mbxp", {}, "x.jsonl", lines(MBXP)),
    "cosqa": Format("cosqa", {"files": ["x.json"]}, "x.json", document(COSQA)),
    "sql": Format("text_to_sql", {"files": ["x.json"]}, "x.json", document(SQL)),
    "conll": Format(
        "intents_conll", {"language": "en", "files": "x.conll"}, "x.conll",
        text("".join(f"# text = {row['p']}\n# intent = a\n1\tx\n\n" for row in ROWS)),
    ),
    "question pages": Format("qa_xml", {"files": "{name}.xml"}, "x.xml", text(f"<Document>\n{XML}</Document>")),
    "declarations": Format(
        "udhr_xml", {"pairs": [["fr", "en"]]}, "udhr_fra.xml", text(f"<udhr>\n{UDHR}</udhr>"),
        {"udhr_eng.xml": f"<udhr>\n{UDHR}</udhr>",
         "index.xml": "<all>" + "".join(
             f"<udhr f='{code}' iso639-3='{code}' iso15924='Latn' stage='4'/>" for code in ("fra", "eng")) + "</all>"},
    ),
    "bibles": Format(
        "bible_xml",
        {"pairs": [["fr", "en"]], "files": ["{name}.xml"], "metadata": None, "codes": {"fra": "fr", "eng": "en"}},
        "fra.xml", text(f"<cesDoc>\n{BIBLE}</cesDoc>"), {"eng.xml": f"<cesDoc>\n{BIBLE}</cesDoc>"},
    ),
}  # fmt: skip
BINARIES = {
    "released": Format(
        "released_retrieval", {"files": ["x"], "language": "en"}, "x.parquet",
        lambda path: pq.write_table(RELEASED, path),
    ),
    "parquet": Format(
        "pairs_table", PAIRS | {"files": "x.parquet"}, "x.parquet", lambda path: pq.write_table(TABLE, path)
    ),
    "stream": Format("pairs_table", PAIRS | {"files": "x.arrow"}, "x.arrow", lambda path: stream(path, TABLE)),
    "arrow": Format("pairs_table", PAIRS | {"files": "x.arrow"}, "x.arrow", lambda path: ipc_file(path, TABLE)),
    "feather": Format(
        "pairs_table", PAIRS | {"files": "x.feather"}, "x.feather", lambda path: feather_file(path, TABLE)
    ),
    "data set": Format(
        "pairs_table", PAIRS | {"files": "d"}, "d/data-1.arrow",
        lambda path: (path.parent.rmdir(), data_set(path.parent, TABLE)),
    ),
}  # fmt: skip
FORMATS = TEXTS | BINARIES
UNMARKED = {"lines", "two files", "tsv", "conll"}
"""Nothing tells where these end."""
LINES = {"bitext", "bitext classes", "csv", "json lines", "json of lines", "dialogues", "mbxp"}
"""A cut between two rows of these does not show, if not beside another file."""


class Outcome(NamedTuple):
    rows: list[Example]
    drops: Drops
    error: str


def outcome(form: Format, root: Path) -> Outcome:
    """Rows and drops, or the sentence that was told; any other exception ends the test."""
    drops, rows, told = Drops(), list[Example](), ""
    try:
        rows.extend(convert(form.converter, root, "s", form.options, 0, drops))
    except (DataError, ConfigError) as error:
        told = str(error)
    assert "\n" not in told
    assert len({row.id for row in rows}) == len(rows), "ids are unique in a source"
    return Outcome(rows, drops, told)


def refused(form: Format, root: Path) -> str:
    """The sentence, which names the broken file."""
    told = outcome(form, root).error
    assert Path(form.name).name in told, told or "nothing was told"
    return told


@pytest.mark.parametrize("name", FORMATS)
def test_whole_files_give_rows(name: str, tmp_path: Path) -> None:
    FORMATS[name].lay(tmp_path)
    rows, _, error = outcome(FORMATS[name], tmp_path)
    assert (len(rows) >= COUNT - 1, error) == (True, "")


@pytest.mark.parametrize("name", sorted(FORMATS.keys() - UNMARKED))
def test_truncated(name: str, tmp_path: Path) -> None:
    path = FORMATS[name].lay(tmp_path)
    whole = path.read_bytes()
    in_a_row = [whole.index("é 11".encode()), whole.index("é 41".encode())] if name in TEXTS else []
    for size in [*in_a_row, *([] if name in LINES else (len(whole) // 3, len(whole) * 2 // 3, len(whole) - 7))]:
        path.write_bytes(whole[:size])
        assert refused(FORMATS[name], tmp_path)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
@pytest.mark.parametrize("name", TEXTS)
def test_truncated_and_compressed(name: str, pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = FORMATS[name].lay(tmp_path)
    packed = path.with_name(path.name + (".gz" if pack is gzip.compress else ".bz2"))
    packed.write_bytes(pack(path.read_bytes()))
    path.unlink()
    assert len(outcome(FORMATS[name], tmp_path).rows) >= COUNT - 1
    packed.write_bytes(packed.read_bytes()[:-12])
    assert "cannot be read" in refused(FORMATS[name], tmp_path)
    packed.write_bytes(b"no such thing")
    assert "fetch it again" in refused(FORMATS[name], tmp_path)


@pytest.mark.parametrize("name", FORMATS)
def test_empty(name: str, tmp_path: Path) -> None:
    FORMATS[name].lay(tmp_path).write_bytes(b"")
    refused(FORMATS[name], tmp_path)


@pytest.mark.parametrize("name", FORMATS)
def test_a_directory_in_its_place(name: str, tmp_path: Path) -> None:
    path = FORMATS[name].lay(tmp_path)
    path.unlink()
    path.mkdir()
    _, _, error = outcome(FORMATS[name], tmp_path)
    if name != "bitext classes":  # which takes what files there are
        assert any(told in error for told in ("no file", "not a file", "no .jsonl", "lacks", "no document"))


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
@pytest.mark.parametrize("name", FORMATS)
def test_no_permission(name: str, tmp_path: Path) -> None:
    path = FORMATS[name].lay(tmp_path)
    path.chmod(0)
    assert "may not be read by this user; change its permissions" in refused(FORMATS[name], tmp_path)
    path.chmod(0o600)
    tmp_path.chmod(0)
    told = outcome(FORMATS[name], tmp_path).error
    tmp_path.chmod(0o700)
    assert str(tmp_path) in told


@pytest.mark.parametrize("name", TEXTS)
def test_invalid_utf8(name: str, tmp_path: Path) -> None:
    path = FORMATS[name].lay(tmp_path)
    path.write_bytes(path.read_bytes().replace("é 41".encode(), b"\xe9 41"))
    told = refused(FORMATS[name], tmp_path)
    line = path.read_bytes().partition(b"\xe9 41")[0].count(b"\n") + 1
    assert f"line {line}: not " in told
    assert "utf-8 text; give the `encoding`" in told or "valid XML" in told


@pytest.mark.parametrize("name", BINARIES)
def test_invalid_utf8_in_columns(name: str, tmp_path: Path) -> None:
    path = FORMATS[name].lay(tmp_path)
    wrong = pa.array([b"\xff\xfe"], pa.binary()).view(pa.string())
    broken = {"query": wrong, "passage": ["p"], "negative_1": ["n"]} if name == "released" else {"q": wrong, "p": ["p"]}
    writers: dict[str, Callable[..., object]] = {".parquet": lambda path, table: pq.write_table(table, path)}
    writers |= {".arrow": ipc_file if name == "arrow" else stream, ".feather": feather_file}
    writers[path.suffix](path, pa.table(broken))
    assert "UTF" in refused(FORMATS[name], tmp_path)


@pytest.mark.parametrize("name", FORMATS)
def test_pages_of_nul_bytes(name: str, tmp_path: Path) -> None:
    """What a crash of the machine leaves of a file that was being written."""
    FORMATS[name].lay(tmp_path).write_bytes(bytes(8192))
    rows, _, error = outcome(FORMATS[name], tmp_path)
    if not error:  # a line of text is anything; cleaning takes control characters out and drops what is empty
        assert all(not tidy(row.query) or not tidy(row.positive) or "\0" not in row.query for row in rows)
        assert name in ("lines", "two files", "conll", "bitext classes")


@pytest.mark.parametrize("name", FORMATS)
def test_any_damage_is_told_in_a_sentence(name: str, tmp_path: Path) -> None:
    path = FORMATS[name].lay(tmp_path)
    whole, draw = path.read_bytes(), random.Random(name)
    for _ in range(25):
        path.write_bytes(damaged(whole, draw))
        outcome(FORMATS[name], tmp_path)


def damaged(whole: bytes, draw: random.Random) -> bytes:
    """Some bytes changed, cut out or doubled."""
    found = bytearray(whole)
    for _ in range(draw.choice((1, 1, 3, 20))):
        at, size = draw.randrange(len(found)), draw.choice((1, 1, 4, 40))
        kind = draw.randrange(3)
        found[at : at + size] = (draw.randbytes(size), b"", found[at : at + size] * 2)[kind]
        if not found:
            return b"\n"
    return bytes(found)


def objects(value: Any) -> Iterator[Any]:
    """The objects and arrays in a JSON value, itself first."""
    if isinstance(value, dict | list):
        yield value
        for item in value.values() if isinstance(value, dict) else value:
            yield from objects(item)


JSON_ROWS = {"dialogues": DIALOGUES[0], "squad": SQUAD, "mbxp": MBXP[0], "cosqa": COSQA[0], "sql": SQL[0]}
STRANGE: list[Any] = [None, 7, True, 1.5, "text", [], {}, [None], [7], [[]], {"a": None}, 10**400]


@pytest.mark.parametrize("name", JSON_ROWS)
def test_values_of_other_types_and_missing_fields(name: str, tmp_path: Path) -> None:
    """Each value of a row, at each depth, in the place of another; each field left out."""
    path = FORMATS[name].lay(tmp_path)
    count = 1 if name != "squad" else 3
    for place in range(sum(1 for _ in objects(trimmed(name, count)))):
        for strange in STRANGE:
            whole = trimmed(name, count)
            target = list(objects(whole))[place]
            for key in list(target) if isinstance(target, dict) else range(len(target)):
                kept, target[key] = target[key], strange
                write_json_row(path, name, whole)
                outcome(FORMATS[name], tmp_path)
                target[key] = kept
        target = list(objects(whole))[place]
        for key in list(target) if isinstance(target, dict) else []:
            kept = target.pop(key)
            write_json_row(path, name, whole)
            outcome(FORMATS[name], tmp_path)
            target[key] = kept


def trimmed(name: str, count: int) -> Any:
    """A small row of a format, as an own copy."""
    row = json.loads(json.dumps(JSON_ROWS[name]))
    return {"data": row["data"][:count]} if name == "squad" else row


def write_json_row(path: Path, name: str, row: Any) -> None:
    wrapped = row if name in ("squad", "dialogues", "mbxp") else [row]
    path.write_text(json.dumps(wrapped), encoding="utf-8")


@pytest.mark.parametrize("name", ["json lines", "json of lines", "json array", "json object", *JSON_ROWS])
@pytest.mark.parametrize("fault", ["deep", "digits", "nested cell"])
def test_json_that_exhausts_the_parser(name: str, fault: str, tmp_path: Path) -> None:
    path = FORMATS[name].lay(tmp_path)
    inner = {"deep": "[" * 100_000 + "]" * 100_000, "digits": "9" * 5_000, "nested cell": "[" * 500 + "]" * 500}[fault]
    whole = path.read_text(encoding="utf-8")
    for old in ('"query 7"', '"query 41"'):
        path.write_text(whole.replace(old, inner), encoding="utf-8")
        told = refused(FORMATS[name], tmp_path)
        if fault == "deep":
            assert "JSON that nests too deep" in told
        if fault == "digits":
            assert "a number of more than 4,300 digits" in told


def test_a_number_is_a_text_too(tmp_path: Path) -> None:
    path = FORMATS["json lines"].lay(tmp_path)
    path.write_text(f'{{"q": {10**400}, "p": "yes"}}\n{{"q": NaN, "p": "no"}}\n', encoding="utf-8")
    rows, drops, _ = outcome(FORMATS["json lines"], tmp_path)
    assert ([row.query for row in rows], drops) == ([str(10**400)], {"no query": 1})


@pytest.mark.parametrize("name", ["json lines", "json array", "json object", "csv", "tsv", *BINARIES])
def test_wrong_columns(name: str, tmp_path: Path) -> None:
    form = FORMATS[name]
    form.lay(tmp_path)
    options = form.options | ({"files": ["y"]} if name == "released" else {"query": ["question"]})
    if name == "released":
        pq.write_table(TABLE, tmp_path / "y.parquet")
    told = outcome(form._replace(options=options), tmp_path).error
    assert "no column" in told or "no field question" in told
    assert "q" in told.rpartition(" ")[0], "what there is"


@pytest.mark.parametrize("kind", [pa.binary(), pa.struct([("a", pa.string())]), pa.list_(pa.list_(pa.string()))])
def test_columns_that_hold_no_text(kind: pa.DataType, tmp_path: Path) -> None:
    value = {"binary": b"x", "struct": {"a": "x"}}.get(str(kind).partition("<")[0], [["x"]])
    pq.write_table(pa.table({"q": pa.array([value], kind), "p": ["p"]}), tmp_path / "x.parquet")
    assert "x.parquet, row 1, column q: " in refused(FORMATS["parquet"], tmp_path)
    pq.write_table(
        pa.table({"query": pa.array([value], kind), "passage": ["p"], "negative_1": ["n"]}), tmp_path / "x.parquet"
    )
    assert "the column query holds" in refused(FORMATS["released"], tmp_path)


@pytest.mark.parametrize("name", ["json lines", "json array", "parquet", "stream", "released"])
def test_nulls_in_each_column(name: str, tmp_path: Path) -> None:
    form = FORMATS[name]
    path = form.lay(tmp_path)
    columns = ["query", "passage", "negative_1"] if name == "released" else ["q", "p"]
    rows = [{column: None if column == gone else "x" for column in columns} for gone in columns]
    if path.suffix in (".parquet", ".arrow"):
        found = pa.Table.from_pylist(rows)
        pq.write_table(found, path) if path.suffix == ".parquet" else stream(path, found)
    else:
        (lines(rows) if path.suffix == ".jsonl" else document(rows))(path)
    found, drops, error = outcome(form, tmp_path)
    assert error == ""
    assert len(found) == len(columns) - 2
    assert sum(drops.values()) == len(columns)
    assert "None" not in {text for row in found for text in (row.query, row.positive, *row.negatives)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            'q,p\na,b\n"never closed,c\nd,e\n',
            "x.csv, line 3: a quotation mark is never closed; close it, or set `quoted`",
        ),
        ('q,p\na,"b" c\n', "x.csv, line 2: ',' expected after '\"'"),
        ("q,p\ra,b\n", "x.csv, line 1: a carriage return inside a cell"),
        ("q,p\na,b,c\n", "x.csv, line 2: 3 cells, but 2 columns; mend the row, or set `skip_malformed`"),
        ("q,p\n   \n", "x.csv, line 2: 1 cells, but 2 columns"),
        ("   \n", "x.csv, line 1: no column q"),
        ("q,q,p\na,b,c\n", "x.csv, line 1: two columns q"),
    ],
)
def test_csv(content: str, message: str, tmp_path: Path) -> None:
    path = FORMATS["csv"].lay(tmp_path)
    path.write_text(content, encoding="utf-8", newline="")
    assert message in refused(FORMATS["csv"], tmp_path)


def test_a_quotation_mark_that_is_never_closed_in_a_large_file(tmp_path: Path) -> None:
    path = FORMATS["csv"].lay(tmp_path)
    path.write_bytes(b'q,p\na,"b\n' + (b"c" * 9_998 + b",d\n") * (LINE_LIMIT // 9_000))
    told, peak = measured(lambda: refused(FORMATS["csv"], tmp_path))
    assert "x.csv, line 2: a cell of more than 16 MB; close its quotation mark" in told
    assert peak < 7 * LINE_LIMIT


@pytest.mark.parametrize("name", TEXTS)
def test_lines_of_spaces(name: str, tmp_path: Path) -> None:
    path = FORMATS[name].lay(tmp_path)
    path.write_text(" \t \n" * COUNT, encoding="utf-8")
    rows, drops, error = outcome(FORMATS[name], tmp_path)
    assert all(row.query.strip() and row.positive.strip() for row in rows)
    if not error:
        assert drops["empty line"] == COUNT or name in ("conll", "json lines", "dialogues", "mbxp"), "no rows to count"


def measured(call: Callable[[], Any]) -> tuple[Any, int]:
    """The result, and the most bytes that Python held meanwhile."""
    tracemalloc.start()
    try:
        return call(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


LONG = 50_000_000


@pytest.mark.parametrize("name", ["bitext", "lines", "two files", "tsv", "csv", "json lines", "json of lines", "mbxp"])
def test_a_line_of_50_mb_is_left_out(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    form = FORMATS[name]
    path = form.lay(tmp_path)
    before = outcome(form, tmp_path)
    whole = path.read_bytes().splitlines(keepends=True)
    place = {"tsv": 3, "csv": 3}.get(name, 2)
    with path.open("wb") as file:
        file.writelines(whole[: place - 1])
        for _ in range(LONG // 1_000_000):
            file.write(b"x" * 1_000_000)
        file.write(b"\n")
        # Aligned lines keep their numbers, so the long line stands in the place of another.
        file.writelines(whole[place if name == "bitext" else place - 1 :])
    (rows, drops, error), peak = measured(lambda: outcome(form, tmp_path))
    assert error == ""
    assert drops == before.drops + Drops({TOO_LONG: 1})
    kept = [row.positive for at, row in enumerate(before.rows) if name != "bitext" or at != place - 1]
    assert [row.positive for row in rows] == kept
    assert peak < 3 * LINE_LIMIT
    told = " ".join(capsys.readouterr().err.split())
    assert f"{path.name}, line {place}: left out, for it is longer than 16 MB" in told


def test_a_long_line_that_cannot_be_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("f2llm.core.readers.LINE_LIMIT", 50)
    path = FORMATS["csv"].lay(tmp_path)
    for content in ('q,p\na,"b\n' + "c" * 60 + '\n"\n', 'q,p\n"' + "c" * 60 + '\n",a\n'):
        path.write_text(content, encoding="utf-8")
        assert "longer than 16 MB, in a cell of several lines; remove it" in refused(FORMATS["csv"], tmp_path)
    path.write_text('q,p\n"' + "c" * 60 + '",d\na,b\n', encoding="utf-8")
    rows, drops, _ = outcome(FORMATS["csv"], tmp_path)
    assert ([row.query for row in rows], drops) == (["a"], {TOO_LONG: 1})
    numbered = FORMATS["csv"]._replace(options=PAIRS | {"files": "x.csv", "unit": "#"})
    assert "line 2: longer than 16 MB; shorten or remove it" in refused(numbered, tmp_path), "rows are numbered"
    path = FORMATS["conll"].lay(tmp_path)
    path.write_text("# text = " + "c" * 60 + "\n", encoding="utf-8")
    assert "line 1: longer than 16 MB" in refused(FORMATS["conll"], tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<Document><QAPair>", "line 1: not valid XML (no element found); mend it, or fetch the file again"),
        ("<a>" * 300 + "</a>" * 300, "line 1: more than 200 levels of elements"),
        ('<!DOCTYPE a [<!ENTITY b "c">]>\n<a>&b;</a>', "line 1: declares an entity; such files are not read"),
        ('<?xml version="1.0" encoding="klingon"?><a/>', "line 1: declares an encoding that there is not (klingon)"),
        ("text", "line 1: not valid XML"),
        ("<a>\0</a>", "line 1: not valid XML (not well-formed (invalid token))"),
    ],
)
def test_xml(content: str, message: str, tmp_path: Path) -> None:
    FORMATS["question pages"].lay(tmp_path).write_text(content, encoding="utf-8")
    assert message in refused(FORMATS["question pages"], tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("bibles", "<c><seg id='b.5'>x</seg></c>", "'b.5' is no verse, such as 'b.MAT.1.1', or comes twice"),
        ("bibles", "<c><seg id='b.MAT.1.²'>x</seg></c>", "is no verse"),
        ("bibles", "<c><seg id='b.MAT.1.1'>x</seg><seg id='b.MAT.1.1'>y</seg></c>", "or comes twice"),
        ("bibles", "<c><seg>x</seg></c>", "'' is no verse"),
        ("bibles", "<osis><verse sID='Matt.1'/></osis>", "'Matt.1' is no verse, or comes twice"),
        ("declarations", "<u><article number='1'/><article number='1'/></u>", "article 1 comes twice"),
    ],
)
def test_verses_and_articles(name: str, content: str, message: str, tmp_path: Path) -> None:
    FORMATS[name].lay(tmp_path).write_text(content, encoding="utf-8")
    assert message in refused(FORMATS[name], tmp_path)


def test_a_stage_that_is_no_number(tmp_path: Path) -> None:
    FORMATS["declarations"].lay(tmp_path)
    index = tmp_path / "index.xml"
    index.write_text(index.read_text(encoding="utf-8").replace("'4'", "'four'"), encoding="utf-8")
    assert "its stage in index.xml is 'four', no number from 1 to 5" in outcome(FORMATS["declarations"], tmp_path).error


def test_a_test_set_that_is_no_list(tmp_path: Path) -> None:
    form = FORMATS["json object"]
    form.lay(tmp_path)
    (tmp_path / "test.json").write_text("7", encoding="utf-8")
    told = outcome(form._replace(options=form.options | {"unit": "key", "leave_out": "test.json"}), tmp_path).error
    assert "test.json: an array or an object is needed, not int" in told


@pytest.mark.parametrize("name", ["x.parquet.gz", "x.txt", "x"])
def test_tables_of_unknown_form(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"q,p\n")
    told = outcome(Format("pairs_table", PAIRS | {"files": name}, name, text("")), tmp_path).error
    assert name in told
    assert "is no table" in told or "unpack it" in told
