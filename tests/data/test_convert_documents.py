"""Documents: MedQuAD, Bibles, the Declaration of Human Rights, CoNLL, dialogues, and XML that is not read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from f2llm.core.errors import ConfigError, DataError
from f2llm.core.readers import read_xml
from f2llm.data.converter import Drops
from f2llm.data.keys import text_group
from tests.data.test_convert import run


def test_questions_and_answers(tmp_path: Path) -> None:
    def document(name: str, *pairs: tuple[str, str, str]) -> None:
        elements = "".join(
            f'<QAPair><Question qtype="{kind}">{question}</Question><Answer>{answer}</Answer></QAPair>'
            for kind, question, answer in pairs
        )
        (tmp_path / "a" / name).write_text(f"<Document><Focus>Gout</Focus>{elements}</Document>", encoding="utf-8")

    (tmp_path / "a").mkdir()
    document("1.xml", ("what", "What is it?", "A disease."), ("cause", "Why?", "Uric acid."), ("cure", "How?", " "))
    document("2.xml", ("what", "What is gout?", "An arthritis."))
    (tmp_path / "a" / "3.xml").write_text(
        "<doc><doctitle-focus>Flu</doctitle-focus><qaPairs><pair><question qtype='x'>Q?</question>"
        "<answer>A &amp; B</answer></pair></qaPairs></doc>", encoding="utf-8",
    )  # fmt: skip
    drops = Drops()
    rows = run("qa_xml", tmp_path, drops, corpus="m")
    assert [(row.id, row.query, row.positive, set(row.negatives), row.groups) for row in rows] == [
        ("a/1.xml/1", "What is it?", "A disease.", {"Uric acid."}, ("m/gout",)),
        ("a/1.xml/2", "Why?", "Uric acid.", {"A disease.", "An arthritis."}, ("m/gout",)),
        ("a/2.xml/1", "What is gout?", "An arthritis.", {"Uric acid."}, ("m/gout",)),
        ("a/3.xml/1", "Q?", "A & B", set(), ("m/flu",)),
    ], "an answer to the same kind of question may be right"
    assert drops == {"no answer": 1}


def ces(verses: dict[str, str]) -> str:
    segments = "".join(f'<seg id="b.{verse}" type="verse">\n\t{text} </seg>' for verse, text in verses.items())
    return f"<cesDoc><text><body lang='xx'>{segments}</body></text></cesDoc>"


def osis(verses: dict[str, str]) -> str:
    marked = "".join(f'<verse sID="{verse}"/>{text}<verse eID="{verse}"/>\n' for verse, text in verses.items())
    return f'<osis xmlns="http://x/y"><osisText><div><title>T</title><p>{marked}</p></div></osisText></osis>'


def bible_folder(tmp_path: Path) -> Path:
    (tmp_path / "bibles").mkdir()
    (tmp_path / "metadata.csv").write_text("Filename,ISO_639-3\nSwahili-NT.xml,swh\nEwe-NT.xml,ewe\n", encoding="utf-8")
    swahili = {"MAT.1.1": "a<i>b</i>", "MAT.1.2": "c", "MAT.1.3": "d", "MAT.1.5": "f", "MAR.1.1": "g", "MAR.1.2": "h"}
    (tmp_path / "bibles" / "Swahili-NT.xml").write_text(ces(swahili), encoding="utf-8")
    ewe = {"1CO.11.1": "k", "1CO.12.1": "l", "JAM.1.1": "m", "JAM.1.2": "", "JAM.1.3": "o"}
    (tmp_path / "bibles" / "Ewe-NT.xml").write_text(ces(ewe), encoding="utf-8")
    english = {
        "Matt.1.1": "A<note>never</note>\n B", "Matt.1.2": "C", "Matt.1.3": "D", "Matt.1.4": "E", "Matt.1.5": "F",
        "Mark.1.1": "G", "1Cor.1.1": "K", "1Cor.2.1": "L", "1Cor.11.1": "not this", "Jas.1.1": "M", "Jas.1.2": "N",
        "Jas.1.3": "O",
    }  # fmt: skip
    (tmp_path / "oeb.osis.xml").write_text(osis(english), encoding="utf-8")
    return tmp_path


BIBLE = {"files": ["bibles/{name}.xml", "{name}.osis.xml"], "codes": {"oeb": "en"}}


def test_bible(tmp_path: Path) -> None:
    drops = Drops()
    rows = run("bible_xml", bible_folder(tmp_path), drops, pairs=[["*", "eng"]], **BIBLE)
    assert [(row.id, row.query, row.positive, row.query_lang, row.groups) for row in rows] == [
        ("Ewe-NT-oeb/1CO.1.1", "k", "K", "ewe_Latn", ("bible/1CO.1",)),
        ("Ewe-NT-oeb/1CO.2.1", "l", "L", "ewe_Latn", ("bible/1CO.2",)),
        ("Ewe-NT-oeb/JAM.1.3", "o", "O", "ewe_Latn", ("bible/JAM.1",)),
        ("Swahili-NT-oeb/MAT.1.1", "ab", "A B", "swa_Latn", ("bible/MAT.1",)),
        ("Swahili-NT-oeb/MAT.1.2", "c", "C", "swa_Latn", ("bible/MAT.1",)),
        ("Swahili-NT-oeb/MAT.1.5", "f", "F", "swa_Latn", ("bible/MAT.1",)),
    ], "the book's number before the chapter is taken off, notes are left out"
    assert drops == {
        "may hold the next verse too": 2, "empty on one side": 1, "chapter ends with another verse": 1,
        "not in the other document": 1,
    }  # fmt: skip


def test_bibles_that_cannot_be_paired(tmp_path: Path) -> None:
    root = bible_folder(tmp_path)
    with pytest.raises(ConfigError, match="give the language of 'oeb', which the metadata lack"):
        run("bible_xml", root, pairs=[["*", "eng"]], files=BIBLE["files"])
    with pytest.raises(ConfigError, match="no document in fra_Latn; there are eng_Latn, ewe_Latn, swa_Latn"):
        run("bible_xml", root, pairs=[["fra", "eng"]], **BIBLE)
    with pytest.raises(ConfigError, match="are both swa_Latn; name one of them"):
        run("bible_xml", root, pairs=[["swa", "eng"]], files=BIBLE["files"], codes={"oeb": "sw"})
    (root / "bibles" / "Ewe-NT.xml").write_text(ces({"MAT.1": "x"}).replace("b.MAT", "MAT"), encoding="utf-8")
    with pytest.raises(DataError, match=r"'MAT\.1' is no verse"):
        run("bible_xml", root, pairs=[["ewe", "eng"]], **BIBLE)


def test_declaration(tmp_path: Path) -> None:
    keys = {
        "eng": ("eng", 4), "042": ("spa", 4), "spa": ("spa", 4), "019": ("und", 4), "chv": ("chv", 1),
        "deu_1": ("deu", 5),
    }  # fmt: skip
    index = "".join(
        f"<udhr f='{key}' iso639-3='{code}' iso15924='Latn' stage='{stage}'/>" for key, (code, stage) in keys.items()
    )
    (tmp_path / "index.xml").write_text(f"<udhrs>{index}</udhrs>", encoding="utf-8")
    for key in keys:
        second = "" if key == "deu_1" else f"<article number='2'><para> {key} two</para></article>"
        (tmp_path / f"udhr_{key}.xml").write_text(
            f'<udhr xmlns="http://efele.net/udhr"><title>T</title><preamble><title>P</title><para>{key} zero</para>'
            f"</preamble><article number='1'><title>A</title><orderedlist><listitem><para>{key}\n a</para></listitem>"
            f"<listitem><para>b</para></listitem></orderedlist></article>{second}</udhr>", encoding="utf-8",
        )  # fmt: skip
    drops = Drops()
    rows = run("udhr_xml", tmp_path, drops, pairs=[["*", "eng"]])
    assert [(row.id, row.query, row.positive, row.groups) for row in rows] == [
        ("deu_1-eng/preamble", "deu_1 zero", "eng zero", ("udhr/preamble",)),
        ("deu_1-eng/article 1", "deu_1 a\nb", "eng a\nb", ("udhr/article 1",)),
        ("spa-eng/preamble", "spa zero", "eng zero", ("udhr/preamble",)),
        ("spa-eng/article 1", "spa a\nb", "eng a\nb", ("udhr/article 1",)),
        ("spa-eng/article 2", "spa two", "eng two", ("udhr/article 2",)),
    ]
    assert drops == {"of no known language": 3, "not reviewed": 3, "another document of the language": 3}
    drops = Drops()
    run("udhr_xml", tmp_path, drops, pairs=[["eng", "deu"]], min_stage=1)
    assert drops["not in the other document"] == 1
    (tmp_path / "udhr_xyz.xml").write_text("<udhr/>", encoding="utf-8")
    with pytest.raises(DataError, match=r"udhr_xyz.xml is not in index.xml"):
        run("udhr_xml", tmp_path, pairs=[["*", "eng"]])


def test_intents(tmp_path: Path) -> None:
    files = {
        "en": "# text = One\n# intent = n\n# slots: 1:2:x\n1\tOne\tn\tO\n\n# text: Two\n# intent = n\n",
        "de-ba": "# id = 1\n# text-en = One\n# text = Oans\n# intent = n\n\n\n# id = 7\n# text-en = two\n# text = Zwoa"
        "\n# intent = n\n\n# id = 3\n# text = \n# intent = n\n",
        "no": "# id = 2/8\n# text = To\n# intent = n\n\n# id = 1/1\n# text = Ein\n# intent = n\n\n",
    }
    for code, text in files.items():
        (tmp_path / f"{code}.valid.conll").write_text(text, encoding="utf-8")
    drops, options = Drops(), {"files": "{code}.valid.conll", "codes": {"de-ba": "bar"}}
    rows = run("intents_conll", tmp_path, drops, **options)
    one, two = text_group("One"), text_group("two")
    assert [(row.query, row.positive, row.query_lang, row.groups) for row in rows] == [
        ("Oans", "Zwoa", "bar_Latn", (one, two)), ("Zwoa", "Oans", "bar_Latn", (two, one)),
        ("One", "Two", "eng_Latn", (one, two)), ("Two", "One", "eng_Latn", (two, one)),
        ("To", "Ein", "nor_Latn", (two, one)), ("Ein", "To", "nor_Latn", (one, two)),
    ], "versions of one sentence share its unit, whatever their file tells of it"  # fmt: skip
    assert drops == {"no text or no label": 1}
    assert all(row.query_lang != row.doc_lang for row in run("intents_conll", tmp_path, cross_lingual=True, **options))
    one_file = run("intents_conll", tmp_path / "no.valid.conll", language="no")
    assert one_file[0].groups == (text_group("To"), text_group("Ein"))


def test_conversations(tmp_path: Path) -> None:
    path, drops = tmp_path / "a.jsonl", Drops()
    rows = [
        {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"},
                      {"role": "assistant", "content": "a"}, {"role": "user", "content": "more"}]},
        {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]},
        {"conversations": [{"from": "human", "value": "Q"}]},
        {"messages": [{"role": "user", "content": " "}, {"role": "assistant", "content": "a"}]},
    ]  # fmt: skip
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    found = run("conversations", path, drops, language="en")
    assert [(row.query, row.positive) for row in found] == [("q", "a"), ("Q", "A")]
    assert drops == {"no request, or no response to it": 1, "empty turn": 1}
    path.write_text('{"conversations": [3]}', encoding="utf-8")
    with pytest.raises(DataError, match=r"a.jsonl, row 1: the field 'from' is missing"):
        run("conversations", path, language="en")


def test_xml_that_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_text('<!DOCTYPE a [<!ENTITY b "bbbb">\n<!ENTITY c "&b;&b;">]><a>&c;</a>', encoding="utf-8")
    with pytest.raises(DataError, match=r"a.xml, line 1: declares an entity"):
        read_xml(path)
    path.write_text('<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/hostname">]><a>&b;</a>', encoding="utf-8")
    with pytest.raises(DataError, match="declares an entity"):
        read_xml(path)
    path.write_text("<a>\n<b></a>", encoding="utf-8")
    with pytest.raises(DataError, match=r"a.xml, line 2: not valid XML \(mismatched tag\)"):
        read_xml(path)
    (tmp_path / "a.xml.gz").write_bytes(b"\x1f\x8b\x08broken")
    with pytest.raises(DataError, match="cannot be read"):
        read_xml(tmp_path / "a.xml.gz")
    path.write_text('<!DOCTYPE a><n:a xmlns:n="http://x" n:k="v"><n:b>ä&amp;</n:b></n:a>', encoding="utf-8")
    root = read_xml(path)
    assert (root.tag, root.attrib, root.findtext("b")) == ("a", {"k": "v"}, "ä&")
