"""Every format that an index reads: texts, positions, titles, columns; and the reasons why a file is left out."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pypdf
import pytest

from f2llm.apps.reading import LINE_LIMIT, Block, Columns, read_blocks, unit_of
from f2llm.core.errors import ConfigError, DataError


def pdf_bytes(*pages: str) -> bytes:
    """A small PDF with one line of text a page."""
    count = len(pages)
    kids = " ".join(f"{4 + 2 * n} 0 R" for n in range(count))
    objects = ["<</Type/Catalog/Pages 2 0 R>>", f"<</Type/Pages/Kids[{kids}]/Count {count}>>",
               "<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>"]  # fmt: skip
    for number, text in enumerate(pages):
        stream = f"BT /F1 12 Tf 50 700 Td ({text}) Tj ET" if text else ""
        page = f"/Parent 2 0 R/MediaBox[0 0 600 800]/Contents {5 + 2 * number} 0 R/Resources<</Font<</F1 3 0 R>>>>"
        objects += [f"<</Type/Page{page}>>", f"<</Length {len(stream)}>>\nstream\n{stream}\nendstream"]
    body, places = "%PDF-1.4\n", []
    for number, content in enumerate(objects, start=1):
        places.append(len(body))
        body += f"{number} 0 obj\n{content}\nendobj\n"
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    size = len(objects) + 1
    return (
        f"{body}xref\n0 {size}\n0000000000 65535 f \n{table}trailer<</Size {size}/Root 1 0 R>>\n"
        f"startxref\n{len(body)}\n%%EOF"
    ).encode()


def read(file: Path, *columns: str, by_line: bool = False) -> list[Block]:
    return list(read_blocks(file, Columns.parse(columns), by_line))


def shown(blocks: list[Block]) -> list[tuple[int, str]]:
    return [(block.position, block.text) for block in blocks]


def test_text_by_paragraphs_or_lines(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes("\ufeffone\r\ntwo\r\n\r\n  dréi\r\n".encode())
    assert shown(read(file)) == [(1, "one\ntwo"), (4, "dréi")]
    lines = read(file, by_line=True)
    assert shown(lines) == [(1, "one"), (2, "two"), (4, "dréi")]
    assert len({block.record for block in lines}) == 3


def test_gzipped_text(tmp_path: Path) -> None:
    file = tmp_path / "a.csv.gz"
    file.write_bytes(gzip.compress(b"text,n\none,1\n"))
    assert shown(read(file)) == [(2, "one")]
    file.write_bytes(file.read_bytes()[:-12])
    with pytest.raises(DataError, match="cannot be read"):
        read(file)


def test_markdown_has_its_first_heading_as_title(tmp_path: Path) -> None:
    file = tmp_path / "a.md"
    file.write_text("intro\n\n## Sea and land ##\n\ntext\n", encoding="utf-8")
    assert [(b.position, b.title) for b in read(file)] == [(1, ""), (3, "Sea and land"), (5, "Sea and land")]


def test_html_is_its_visible_text(tmp_path: Path) -> None:
    file = tmp_path / "a.html"
    page = (
        "<html><head><meta charset='latin-1'><title>Caf\xe9</title><style>p {}</style></head>\n<body><p>One <b>bold</b>"
        "word &amp; more</p>\n<script>var x = '<p>no</p>';</script>\n<div>\nSecond</div></body></html>"
    )
    file.write_bytes(page.encode("latin-1"))
    blocks = read(file)
    assert shown(blocks) == [(2, "One boldword & more"), (5, "Second")]
    assert {block.title for block in blocks} == {"Café"}


def test_xml_has_a_block_for_each_element(tmp_path: Path) -> None:
    file = tmp_path / "a.xml"
    file.write_text("<?xml version='1.0'?>\n<r><title>T</title><a>x</a><b><![CDATA[y < z]]></b></r>", encoding="utf-8")
    assert shown(read(file)) == [(2, "x"), (2, "y < z")]


def test_pdf_pages(tmp_path: Path) -> None:
    file = tmp_path / "a.pdf"
    file.write_bytes(pdf_bytes("First page here", "", "Third one"))
    assert shown(read(file)) == [(1, "First page here"), (3, "Third one")]
    assert (unit_of("x/a.PDF"), unit_of("a.parquet"), unit_of("a.md")) == ("page", "row", "line")


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.parquet"])
def test_tables_give_text_title_and_own_columns(name: str, tmp_path: Path) -> None:
    file, rows = tmp_path / name, [("x, y", "T", 2020), (None, "U", 2021), ("z", None, 2022)]
    if name.endswith("parquet"):
        pq.write_table(pa.table(dict(zip(("body", "head", "year"), zip(*rows, strict=True), strict=True))), file)
    elif name.endswith("jsonl"):
        file.write_text("".join(json.dumps({"body": b, "head": h, "year": y}) + "\n" for b, h, y in rows))
    else:
        mark = "," if name.endswith("csv") else "\t"
        lines = [["body", "head", "year"], *([f'"{b}"' if b else "", h or "", str(y)] for b, h, y in rows)]
        file.write_text("".join(mark.join(line) + "\n" for line in lines))
    found = read(file, "text=body", "title=head", "published=year")
    assert [(b.text, b.title, str(b.values["published"])) for b in found] == [("x, y", "T", "2020"), ("z", "", "2022")]
    first = 2 if name[2:] in ("csv", "tsv") else 1
    assert [block.position for block in found] == [first, first + 2]
    assert len({block.record for block in found}) == 2


def test_rows_of_csv_may_have_line_breaks(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text('text;n\n"one\ntwo";1\nthree;2\n')
    assert shown(read(file)) == [(2, "one\ntwo"), (4, "three")]


def test_a_table_whose_text_is_not_known_says_what_it_has(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"does not say which column is the text; it has a, b"):
        read(file)
    with pytest.raises(DataError, match=r"has no column 'c'; it has a, b"):
        read(file, "text=c")
    with pytest.raises(ConfigError, match="--column =x"):
        Columns.parse(["=x"])


def broken_pdf(encrypted: bool, path: Path) -> bytes:
    if not encrypted:
        return pdf_bytes("text")[:150]
    writer = pypdf.PdfWriter()
    writer.add_blank_page(100, 100)
    writer.encrypt("secret", algorithm="RC4-128")
    writer.write(path)
    return path.read_bytes()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.txt", b"ab\0c", "is binary"),
        ("a.png", b"\x89PNG\r\n\x1a\n\0\0", "is binary"),
        ("a.txt", "caf\xe9".encode("latin-1"), "is not UTF-8 text"),
        ("a.html", b"<p>caf\xe9", "is not in the encoding UTF-8"),
        ("a.html", b"<meta charset=klingon><p>x", "is not in the encoding klingon"),
        ("a.jsonl", b'{"text": "a"}\n[1]\n', "line 2 is no JSON object"),
        ("a.jsonl", b"{" * 3000, "line 1 is no JSON object"),
        ("a.parquet", b"PAR1 no", "is no Parquet file"),
        ("a.pdf", broken_pdf(False, Path()), "is no PDF that can be read"),
        ("a.pdf", pdf_bytes("", ""), "has no text"),
    ],
)
def test_a_file_that_cannot_be_read_has_a_reason(name: str, content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=reason):
        read(tmp_path / name)


def test_an_encrypted_pdf_has_a_reason(tmp_path: Path) -> None:
    broken_pdf(True, tmp_path / "a.pdf")
    with pytest.raises(DataError, match="is encrypted"):
        read(tmp_path / "a.pdf")


@pytest.mark.parametrize("name", ["a.txt", "a.html", "a.csv", "a.jsonl"])
def test_a_line_without_end_is_no_text(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"text\n" + b"a" * (LINE_LIMIT + 1))
    with pytest.raises(DataError, match=r"line 2 is longer than 16 MB|line 1 is no JSON"):
        read(tmp_path / name)
