"""Documents with a structure of their own: question pages, Bibles, the Declaration of Human Rights, CoNLL, dialogues.

Cost: one document in memory at a time, of Bibles and declarations all that are asked for (1.5 MB each at most).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from xml.etree.ElementTree import Element

from pydantic import Field

from f2llm.core import arrow
from f2llm.core.errors import ConfigError, DataError
from f2llm.core.languages import language
from f2llm.core.readers import field, find_file, match_files, read_conll, read_csv, read_json_rows, read_xml
from f2llm.core.types import Example
from f2llm.data.convert_pairs import Pair, code_pairs
from f2llm.data.convert_tables import Labelled, Table, TableOptions, clustered, groups, matches, tables
from f2llm.data.converter import Converter, Job, Options
from f2llm.data.keys import bare, stable_hash, text_group

Pairs = Annotated[list[Pair], Field(min_length=1)]


class QaXmlOptions(Options):
    """`files`: pattern of the files' names; `negatives`: the most hard negatives of a question.

    `corpus`: the name under which other sources share the subjects; the name of the directory where empty.
    """

    files: str = "{folder}/{name}.xml"
    language: str = "en"
    negatives: Annotated[int, Field(ge=0)] = 8
    corpus: str = ""


class _Answered(NamedTuple):
    id: str
    subject: str
    kind: str
    question: str
    answer: str


def qa_xml(job: Job[QaXmlOptions]) -> Iterator[Example]:
    """MedQuAD: each question with its answer; answers about the same subject to other kinds of questions are negatives.

    The held-out unit is the subject (`Focus`), over all documents.
    """
    lang, corpus = language(job.options.language).tag, job.options.corpus or job.name
    by_subject: dict[str, list[_Answered]] = defaultdict(list)
    for pair in _questions(job):
        by_subject[pair.subject].append(pair)
    for subject, pairs in by_subject.items():
        for pair in pairs:
            others = dict.fromkeys(other.answer for other in pairs if other.kind != pair.kind)
            others.pop(pair.answer, None)
            drawn = sorted(others, key=partial(stable_hash, job.seed, pair.id))
            yield Example(
                id=pair.id, query=pair.question, positive=pair.answer, negatives=tuple(drawn[: job.options.negatives]),
                task_type="retrieval", source=job.source, query_lang=lang, doc_lang=lang,
                groups=groups(f"{corpus}/{subject}" if subject else "", pair.question, pair.answer),
            )  # fmt: skip


def _questions(job: Job[QaXmlOptions]) -> Iterator[_Answered]:
    """The answered questions; the collection has two spellings of its elements."""
    for path, _ in match_files(job.path, job.options.files):
        root, name = read_xml(path), path.relative_to(job.path).as_posix()
        subject = bare(_first_text(root, "Focus", "doctitle-focus"))
        for number, pair in enumerate((element for element in root.iter() if element.tag in ("QAPair", "pair")), 1):
            question, answer = _first_text(pair, "Question", "question"), _first_text(pair, "Answer", "answer")
            if not question or not answer:
                job.drops["no question" if not question else "no answer"] += 1
                continue
            kind = next((element.get("qtype", "") for element in pair if element.tag.lower() == "question"), "")
            yield _Answered(f"{name}/{number}", subject, kind, question, answer)


def _first_text(parent: Element, *names: str) -> str:
    found = (child for name in names for child in parent.findall(name))
    return next(("".join(child.itertext()).strip() for child in found), "")


class _Units(NamedTuple):
    """A document in one language: its texts by the name of the unit (verse, article)."""

    name: str
    tag: str
    texts: dict[str, str]


def _translations(
    job: Job[Any], query: _Units, document: _Units, group: Callable[[str], str], fault: Callable[[str], str | None]
) -> Iterator[Example]:
    """Each unit with the same unit in the other language, but for those with a fault, which are counted by it."""
    for unit, text in query.texts.items():
        positive = document.texts.get(unit)
        if reason := "not in the other document" if positive is None else fault(unit):
            job.drops[reason] += 1
            continue
        if not text or not positive:
            job.drops["empty on one side"] += 1
            continue
        yield Example(
            id=f"{query.name}-{document.name}/{unit}", query=text, positive=positive, negatives=(),
            task_type="retrieval", source=job.source, query_lang=query.tag, doc_lang=document.tag,
            groups=(group(unit),),
        )  # fmt: skip


class BibleOptions(Options):
    """`files`: patterns of the names of CES and OSIS files, with `{name}`; `pairs`: [query, document] languages.

    `metadata`: a CSV file with the columns Filename and ISO_639-3, because what the files say of themselves is wrong at
    times. `codes`: name -> language, for files that it lacks or has in another script. "*" in `pairs` is any language.
    """

    files: Annotated[list[str], Field(min_length=1)] = ["bibles/{name}.xml", "english-oeb/{name}.osis.xml"]
    metadata: str | None = "metadata.csv"
    codes: dict[str, str] = {}
    pairs: Pairs
    corpus: str = "bible"


def bible_xml(job: Job[BibleOptions]) -> Iterator[Example]:
    """Each verse with the same verse in another language; the held-out unit is the chapter.

    A verse goes when only one side has the next one too, for the other may have merged the two; a chapter goes when it
    does not end with the same number on both sides, for its verses may be counted differently.
    """
    yield from _document_pairs(job, _bibles(job), job.options.pairs, _verses, _bible_pair)


def _bible_pair(job: Job[BibleOptions], query: _Units, document: _Units) -> Iterator[Example]:
    ends, other_ends = _last_verses(query), _last_verses(document)

    def fault(verse: str) -> str | None:
        chapter, _, number = verse.rpartition(".")
        if ends[chapter] != other_ends[chapter]:
            return "chapter ends with another verse"
        following = f"{chapter}.{int(number) + 1}"
        one_sided = bool(query.texts.get(following)) != bool(document.texts.get(following))
        return "may hold the next verse too" if one_sided else None

    return _translations(job, query, document, lambda verse: f"{job.options.corpus}/{verse.rpartition('.')[0]}", fault)


def _last_verses(document: _Units) -> dict[str, int]:
    """Chapter -> the number of its last verse."""
    ends: dict[str, int] = {}
    for verse in document.texts:
        chapter, _, number = verse.rpartition(".")
        ends[chapter] = max(int(number), ends.get(chapter, 0))
    return ends


def _bibles(job: Job[BibleOptions]) -> dict[str, tuple[str, Path]]:
    """Tag -> (name, file)."""
    options, codes = job.options, {}
    if options.metadata is not None:
        for _, row in read_csv(find_file(job.path, options.metadata), ("Filename", "ISO_639-3")):
            codes[row["Filename"].removesuffix(".xml")] = row["ISO_639-3"]
    codes |= options.codes
    found: dict[str, tuple[str, Path]] = {}
    for pattern in options.files:
        for path, names in match_files(job.path, pattern):
            name = names.get("name", path.name)
            if name not in codes:
                raise ConfigError(f"option 'codes': give the language of {name!r}, which the metadata lack")
            tag = language(codes[name]).tag
            if found.setdefault(tag, (name, path))[1] != path:
                raise ConfigError(f"{name} and {found[tag][0]} are both {tag}; name one of them in `files`")
    return found


_STAGE = re.compile(r"[1-5]")
_VERSE = re.compile(r"\w+\.[0-9]{1,4}\.[0-9]{1,4}")
# OSIS names of books whose CES name is not their first three letters.
_BOOKS = {"Ps": "PSA", "Jas": "JAM", "Phlm": "PHM", "Judg": "JDG"}


def _verses(path: Path) -> dict[str, str]:
    """`MAT.1.1` -> text, of a CES or an OSIS file."""
    root = read_xml(path)
    texts = _osis_verses(root, path) if root.tag == "osis" else _ces_verses(root, path)
    return {verse: " ".join(text.split()) for verse, text in texts.items()}


def _ces_verses(root: Element, path: Path) -> dict[str, str]:
    texts: dict[str, str] = {}
    for element in root.iter("seg"):
        prefix, _, verse = element.get("id", "").partition(".")
        if prefix != "b" or not _VERSE.fullmatch(verse) or verse in texts:
            raise DataError(f"{path}: {element.get('id', '')!r} is no verse, such as 'b.MAT.1.1', or comes twice")
        texts[verse] = "".join(element.itertext())
    return _without_number_of_book(texts)


def _without_number_of_book(texts: dict[str, str]) -> dict[str, str]:
    """Three files write the book's number again before each chapter: 1CO.14.2 for verse 2 of 1 Corinthians 4."""
    chapters: dict[str, set[str]] = defaultdict(set)
    for verse in texts:
        chapters[verse.split(".")[0]].add(verse.split(".")[1])
    again = {book for book, found in chapters.items() if all(len(c) > 1 and c[0] == book[0] for c in found)}
    return {
        f"{book}.{rest[1:]}" if book in again else f"{book}.{rest}": text
        for (book, _, rest), text in ((verse.partition("."), text) for verse, text in texts.items())
    }


def _osis_verses(root: Element, path: Path) -> dict[str, str]:
    """Verses are milestones: the text between `<verse sID=.../>` and `<verse eID=.../>`, notes and titles left out."""
    texts: dict[str, str] = {}
    inside = ""
    for kind, text in _events(root):
        if kind == "start":
            book, _, verse = text.partition(".")
            inside = f"{_BOOKS.get(book, book[:3].upper())}.{verse}"
            if not _VERSE.fullmatch(inside) or inside in texts:
                raise DataError(f"{path}: {text!r} is no verse, or comes twice")
            texts[inside] = ""
        elif kind == "end":
            inside = ""
        elif inside:
            texts[inside] += text
    return texts


def _events(element: Element) -> Iterator[tuple[str, str]]:
    """Starts and ends of verses, and the text between."""
    if element.tag == "verse":
        yield ("start", element.attrib["sID"]) if "sID" in element.attrib else ("end", "")
    elif element.tag not in ("note", "title", "header"):
        yield "text", element.text or ""
        for child in element:
            yield from _events(child)
            yield "text", child.tail or ""


def _document_pairs(
    job: Job[Any],
    files: dict[str, tuple[str, Path]],
    pairs: list[list[str]],
    read: Callable[[Path], dict[str, str]],
    pair: Callable[[Job[Any], _Units, _Units], Iterator[Example]],
) -> Iterator[Example]:
    """The pairs of languages that are asked for; each file is read once."""
    named = [[name if name == "*" else language(name).tag for name in two] for two in pairs]
    if absent := {tag for two in named for tag in two} - files.keys() - {"*"}:
        has = ", ".join(sorted(files))
        raise ConfigError(f"option 'pairs': no document in {min(absent)}; there are {has}")
    known: dict[str, _Units] = {}
    for tags in code_pairs(named, sorted(files)):
        for tag in tags:
            if tag not in known:
                name, path = files[tag]
                known[tag] = _Units(name, tag, read(path))
        yield from pair(job, known[tags[0]], known[tags[1]])


class UdhrOptions(Options):
    """`pairs`: [query, document] languages, "*" for every one. `min_stage`: 4 and 5 are reviewed translations.

    Documents of no ISO 639-3 language go, and of several in one language and script all but one: that whose name is
    the language's code, or else the first with a name and not a number.
    """

    pairs: Pairs
    min_stage: Annotated[int, Field(ge=1, le=5)] = 4
    corpus: str = "udhr"


def udhr_xml(job: Job[UdhrOptions]) -> Iterator[Example]:
    """Each article, and the preamble, with the same one in another language; it is the held-out unit."""
    yield from _document_pairs(job, _declarations(job), job.options.pairs, _articles, _udhr_pair)


def _udhr_pair(job: Job[UdhrOptions], query: _Units, document: _Units) -> Iterator[Example]:
    return _translations(job, query, document, lambda unit: f"{job.options.corpus}/{unit}", lambda _: None)


def _declarations(job: Job[UdhrOptions]) -> dict[str, tuple[str, Path]]:
    """Tag -> (key, file); the articles of documents that are not taken are counted."""
    index = {row.get("f"): row for row in read_xml(find_file(job.path, "index.xml")).iter("udhr")}
    by_tag: dict[str, list[tuple[bool, bool, str, Path]]] = defaultdict(list)
    for path, names in match_files(job.path, "udhr_{key}.xml"):
        key, row = names["key"], index.get(names["key"])
        if row is None:
            raise DataError(f"{path} is not in index.xml; add it there, or remove the file")
        code, stage = row.get("iso639-3", ""), _stage(row, path)
        if code in ("", "und") or stage < job.options.min_stage:
            job.drops["of no known language" if code in ("", "und") else "not reviewed"] += len(_articles(path))
            continue
        tag = language(f"{code}_{row.get('iso15924', '')}").tag
        by_tag[tag].append((not key.startswith(tag[:3]), key[0].isdigit(), key, path))
    for documents in by_tag.values():
        documents.sort()
        job.drops.update({"another document of the language": sum(len(_articles(path)) for *_, path in documents[1:])})
    return {tag: documents[0][2:] for tag, documents in by_tag.items()}


def _stage(row: Element, path: Path) -> int:
    told = row.get("stage", "1")
    if not _STAGE.fullmatch(told):
        raise DataError(f"{path}: its stage in index.xml is {told!r}, no number from 1 to 5")
    return int(told)


def _articles(path: Path) -> dict[str, str]:
    """`article 1` -> its paragraphs on lines, without the title."""
    texts: dict[str, str] = {}
    for element in read_xml(path):
        if element.tag in ("preamble", "article"):
            paragraphs = (" ".join("".join(part.itertext()).split()) for part in element.iter("para"))
            name = f"{element.tag} {element.get('number', '')}".strip()
            if name in texts:
                raise DataError(f"{path}: {name} comes twice; number the articles")
            texts[name] = "\n".join(filter(None, paragraphs))
    return texts


class IntentsOptions(TableOptions):
    """CoNLL blocks with comments: `text` and `label` name those of the sentence and of its class.

    `original` names that of the English original, which is the held-out unit, so that no version of a sentence gives
    another away; files without it are told by the number of the sentence in the file of the code `english`.
    `cross_lingual`: the partner is an utterance in another language.
    """

    text: str = "text"
    label: str = "intent"
    original: str = "text-en"
    english: str = "en"
    cross_lingual: bool = False


def intents_conll(job: Job[IntentsOptions]) -> Iterator[Example]:
    """Each utterance with another of its intent; the held-out unit is the English original, shared by all languages."""
    return clustered(job, _utterances(job), job.options.cross_lingual)


def _utterances(job: Job[IntentsOptions]) -> Iterator[Labelled]:
    options, originals = job.options, _originals(job)
    for table in tables(job):
        for line, block in read_conll(table.path, options.encoding):
            text, label = block.get(options.text, ""), block.get(options.label, "")
            if not text or not label:
                job.drops["no text or no label"] += 1
                continue
            # "300/8" is the eighth version of sentence 300.
            english = block.get(options.original) or originals.get(block.get("id", "").partition("/")[0], text)
            yield Labelled(f"{table.name}/{line}", text, label, table.query_lang, text_group(english))


def _originals(job: Job[IntentsOptions]) -> dict[str, str]:
    """Number -> English sentence, from the file in English, where there is one."""
    if job.options.files is None:
        return {}
    found = (
        path for path, names in match_files(job.path, job.options.files) if names.get("code") == job.options.english
    )
    blocks = (block for path in found for _, block in read_conll(path, job.options.encoding))
    return {str(number): block.get(job.options.text, "") for number, block in enumerate(blocks, 1)}


class ConversationsOptions(TableOptions):
    """Tables with a list of turns: `messages` of role and content, or `conversations` of from and value."""


_TURNS = ("messages", "conversations")
_USERS, _ASSISTANTS = ("user", "human"), ("assistant", "gpt")


def conversations(job: Job[ConversationsOptions]) -> Iterator[Example]:
    """The first request of each dialogue with the response to it."""
    for table in job.share(tables(job)):
        for number, turns in _dialogues(job, table):
            roles = [role for role, _ in turns]
            asked = next((at for at, role in enumerate(roles) if role in _USERS), None)
            if asked is None or roles[asked + 1 : asked + 2] not in ([name] for name in _ASSISTANTS):
                job.drops["no request, or no response to it"] += 1
                continue
            query, positive = turns[asked][1], turns[asked + 1][1]
            if not query.strip() or not positive.strip():
                job.drops["empty turn"] += 1
                continue
            yield Example(
                id=f"{table.name}/{number}", query=query, positive=positive, negatives=(), task_type="retrieval",
                source=job.source, query_lang=table.query_lang, doc_lang=table.query_lang,
                groups=groups("", query, positive),
            )  # fmt: skip


def _dialogues(job: Job[ConversationsOptions], table: Table) -> Iterator[tuple[int, list[tuple[str, str]]]]:
    """(number, (role, text) of each turn) of each row; a null is a dialogue or a turn without text."""
    if arrow.reads(table.path):
        names = [name for name in arrow.column_names(table.path) if name in _TURNS]
        found: Iterator[tuple[int, dict[str, Any]]] = arrow.read_arrow(table.path, names or _TURNS[:1])
    else:
        found = read_json_rows(table.path, job.options.encoding, job.drops)
    for number, row in found:
        place = f"{table.path}, row {number}"
        name = next((name for name in _TURNS if row.get(name) is not None), None)
        if name is None and not row.keys() & set(_TURNS):
            raise DataError(f"{place}: no field {' or '.join(_TURNS)}; it has {', '.join(row)}")
        yield number, [_turn(turn, place) for turn in field(row, name, list, place)] if name else []


def _turn(turn: Any, place: str) -> tuple[str, str]:
    role, content = ("role", "content") if isinstance(turn, dict) and "role" in turn else ("from", "value")
    told = field(turn, role, str, place)
    return told, "" if turn.get(content, "") is None else field(turn, content, str, place)


DOCUMENT_CONVERTERS = (
    Converter("qa_xml", "retrieval", QaXmlOptions, qa_xml),
    Converter("bible_xml", "retrieval", BibleOptions, bible_xml),
    Converter("udhr_xml", "retrieval", UdhrOptions, udhr_xml),
    Converter("intents_conll", "clustering", IntentsOptions, intents_conll),
    Converter("conversations", "retrieval", ConversationsOptions, conversations, parts=matches),
)
