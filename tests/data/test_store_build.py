"""Building a store of shards: the bytes of the plain way, whatever the engine, the cuts, the growth and the kills."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from f2llm.core.errors import ConfigError, DataError
from f2llm.core.files import digest_file, digest_json
from f2llm.core.types import Example
from f2llm.data import store_build, store_parts
from f2llm.data.engine import LocalEngine, RayEngine, Task, perform
from f2llm.data.examples import write_examples
from f2llm.data.store import StageSource, StoredRows, TokenStore, append_store, build_store
from f2llm.data.store_build import Column, first_places
from f2llm.text.prompts import query_prompt
from f2llm.text.tokenizer import Tokenizer

RULES: dict[str, Any] = {"negatives": 3, "instruction_share": 0.4, "seed": 7}
SOURCES = (
    StageSource("a", "retrieval", None, False),
    StageSource("b", "clustering", "Find it.", True),
    StageSource("c", "retrieval", "Find it.", False),
)
TAGS = ("eng_Latn", "swh_Latn", "python")
Pair = tuple[StageSource, list[Example]]


def example(source: str, number: int, texts: int = 12) -> Example:
    """A row of few distinct texts, some of which are too long, with up to four negatives."""
    chosen = np.random.default_rng([ord(source), number]).integers(texts, size=2 + number % 5).tolist()
    words = [f"text {n} " * (40 if n == 5 else 1) for n in chosen]
    tag = TAGS[number % 3 if source == "b" else 0]
    return Example(str(number), words[0], words[1], tuple(words[2:]), "retrieval", source, tag, TAGS[chosen[0] % 2])


def rows(source: str, count: int, first: int = 0) -> list[Example]:
    return [example(source, number) for number in range(first, first + count)]


PAIRS: list[Pair] = [(source, rows(source.id, 40)) for source in SOURCES]


def written(directory: Path, examples: Sequence[Example], shards: int) -> Path:
    for number, part in enumerate(np.array_split(np.arange(len(examples)), shards)):
        write_examples(directory / f"{number:05}.parquet", (examples[i] for i in part))
    return directory


def stored(root: Path, pairs: Sequence[Pair], shards: int = 3) -> list[tuple[StageSource, StoredRows]]:
    return [(source, StoredRows(written(root / source.id, own, shards))) for source, own in pairs]


def plain_store(directory: Path, pairs: Sequence[Pair], tokenizer: Tokenizer, rules: dict[str, Any]) -> None:
    """The same in the plain way: all rows in memory, a dictionary of texts, one text tokenised after the other."""
    for name in ("rows", "languages"):
        (directory / name).mkdir(parents=True)
    known: dict[str, int] = {}
    tags: dict[str, int] = {}
    shares: dict[str, Any] = {}
    for source, examples in pairs:
        table, languages = [], []
        for row in examples:
            prompt, documents = query_prompt(source.instruction), [row.positive, *row.negatives[: rules["negatives"]]]
            for slot, text in enumerate(documents):
                key = repr((rules["seed"], source.id, row.id, slot)).encode()
                drawn = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") / 2**64
                if source.symmetric and prompt and drawn < rules["instruction_share"]:
                    documents[slot] = prompt + text
            ids = [known.setdefault(text, len(known)) for text in (prompt + row.query, *documents)]
            table.append(ids + [-1] * (2 + rules["negatives"] - len(ids)))
            languages.append([tags.setdefault(tag, len(tags)) for tag in (row.query_lang, row.doc_lang)])
        np.save(directory / "rows" / f"{source.id}.npy", np.array(table, np.int32).reshape(-1, 2 + rules["negatives"]))
        np.save(directory / "languages" / f"{source.id}.npy", np.array(languages, np.uint16).reshape(-1, 2))
        queries = [query for query, _ in languages]
        shares[source.id] = {tag: queries.count(i) / len(queries) for tag, i in tags.items() if i in queries}
    encoded = [tokenizer.encode_counted([text]) for text in known]
    ids = [own for (own,), _ in encoded]
    np.array(sum(ids, []), np.uint32).tofile(directory / "tokens.bin")  # noqa: RUF017
    np.save(directory / "offsets.npy", np.cumsum([0, *map(len, ids)]))
    keys = b"".join(hashlib.blake2b(text.encode(), digest_size=16).digest() for text in known)
    np.save(directory / "keys.npy", np.frombuffer(keys, np.uint64).reshape(-1, 2))
    files = [path for path in directory.rglob("*.*") if path.name != "keys.npy"]
    digests = {path.relative_to(directory).as_posix(): digest_file(path) for path in files}
    meta = {
        "texts": len(known), "tokens": sum(map(len, ids)), "truncated": sum(cut for _, cut in encoded),
        "rows": sum(len(own) for _, own in pairs), "tokenizer": tokenizer.digest(),
        "digest": digest_json([list(tags), digests]), "sources": {s.id: s.task_type for s, _ in pairs},
        "languages": list(tags), "language_shares": shares,
    }  # fmt: skip
    (directory / "meta.json").write_text(json.dumps(meta))


def contents(directory: Path) -> dict[str, Any]:
    """Bytes of all files of a store, and its meta data."""
    found: dict[str, Any] = {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and path.name != "meta.json"
    }
    return found | {"meta.json": json.loads((directory / "meta.json").read_text())}


def assert_plain(directory: Path, plain: Path) -> None:
    """The same files as those of the plain way, and all that its meta data say."""
    found, expected = contents(directory), contents(plain)
    meta, plain_meta = found.pop("meta.json"), expected.pop("meta.json")
    assert {name: meta[name] for name in plain_meta} == plain_meta
    assert list(meta["language_shares"].items()) == list(plain_meta["language_shares"].items())
    assert found == expected
    TokenStore(directory).verify()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, small_tokenizer: Tokenizer) -> Path:
    directory = tmp_path_factory.mktemp("plain")
    plain_store(directory, PAIRS, small_tokenizer, RULES)
    assert json.loads((directory / "meta.json").read_text())["truncated"] > 1
    return directory


def test_rows_in_memory_give_the_plain_bytes(tmp_path: Path, small_tokenizer: Tokenizer, plain: Path) -> None:
    build_store(tmp_path, [(source, iter(own)) for source, own in PAIRS], small_tokenizer, **RULES)
    assert_plain(tmp_path, plain)


@pytest.mark.parametrize("shards", [1, 2, 7])
def test_stored_rows_give_the_plain_bytes(
    tmp_path: Path, small_tokenizer: Tokenizer, plain: Path, shards: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_build, "_COPIED_AT_ONCE", 3)
    monkeypatch.setattr(store_build, "_SORTED_AT_ONCE", 5)
    monkeypatch.setattr(store_parts, "_BATCH", 4)
    build_store(tmp_path / "s", stored(tmp_path, PAIRS, shards), small_tokenizer, **RULES)
    assert_plain(tmp_path / "s", plain)


def test_rows_of_memory_and_disk_mix(
    tmp_path: Path, small_tokenizer: Tokenizer, plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_parts, "SHARD_ROWS", 9)
    sources: list[Any] = [*PAIRS]
    sources[1] = stored(tmp_path, PAIRS[1:2])[0]
    build_store(tmp_path / "s", sources, small_tokenizer, **RULES)
    assert_plain(tmp_path / "s", plain)


def test_worker_processes_give_the_plain_bytes(
    tmp_path: Path, small_tokenizer: Tokenizer, plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_parts, "_write_part", None)  # here; workers have their own
    engine = LocalEngine(workers=2)
    build_store(tmp_path / "s", stored(tmp_path, PAIRS), small_tokenizer, **RULES, engine=engine)
    engine.close()
    assert_plain(tmp_path / "s", plain)


@pytest.mark.slow
def test_a_cluster_gives_the_plain_bytes(tmp_path: Path, small_tokenizer: Tokenizer, plain: Path) -> None:
    pytest.importorskip("ray")
    engine = RayEngine(workers=2)
    try:
        build_store(tmp_path / "s", stored(tmp_path, PAIRS), small_tokenizer, **RULES, engine=engine)
    finally:
        engine.close()
    assert_plain(tmp_path / "s", plain)


SIZES = st.lists(st.integers(0, 12), min_size=1, max_size=3)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=SIZES, shards=st.integers(1, 4), kept=st.data(), grown=st.integers(0, 3))
def test_any_rows_give_the_plain_bytes(
    tmp_path_factory: pytest.TempPathFactory,
    small_tokenizer: Tokenizer,
    sizes: list[int],
    shards: int,
    kept: st.DataObject,
    grown: int,
) -> None:
    """Some rows of each source, in any cuts; the last `grown` sources are added one after the other."""
    root = tmp_path_factory.mktemp("any")
    pairs, sources = [], []
    for source, size in zip(SOURCES, sizes, strict=False):
        own = rows(source.id, size)
        chosen = kept.draw(st.sets(st.integers(0, size - 1)).map(sorted)) if size else []
        pairs.append((source, [own[i] for i in chosen]))
        path = written(root / source.id, own, shards)
        sources.append((source, StoredRows(path, np.array(chosen, np.int64))))
    plain_store(root / "plain", pairs, small_tokenizer, RULES)
    first = max(0, len(sources) - grown)
    build_store(root / "s", sources[:first], small_tokenizer, **RULES)
    for pair in sources[first:]:
        append_store(root / "s", [pair], small_tokenizer, **RULES)
    assert_plain(root / "s", root / "plain")


class Interrupted(BaseException):
    """Stands for a kill: nothing catches it."""


class Counting:
    """An engine that performs tasks one after the other, counts those that it really runs, and stops after some."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.stop_after, self.ran = stop_after, list[str]()

    def map(self, tasks: Sequence[Task], description: str) -> list[Any]:
        found = []
        for task in tasks:
            if not task.marker.exists():
                if len(self.ran) == self.stop_after:
                    raise Interrupted
                self.ran.append(task.marker.stem)
            found.append(perform(task))
        return found

    def close(self) -> None:
        pass


def test_finished_shards_are_not_tokenised_again(tmp_path: Path, small_tokenizer: Tokenizer, plain: Path) -> None:
    sources, directory = stored(tmp_path, PAIRS), tmp_path / "s"
    engine = Counting(stop_after=4)
    with pytest.raises(Interrupted):
        build_store(directory, sources, small_tokenizer, **RULES, engine=engine)
    assert not (directory / "meta.json").exists()
    again = Counting()
    build_store(directory, sources, small_tokenizer, **RULES, engine=again)
    assert (len(engine.ran), len(again.ran)) == (4, 5)
    assert not {*engine.ran} & {*again.ran}
    assert_plain(directory, plain)


@pytest.mark.parametrize("change", ["rows", "choice", "rules", "tokenizer"])
def test_what_changed_is_tokenised_again(tmp_path: Path, small_tokenizer: Tokenizer, change: str) -> None:
    sources, directory = stored(tmp_path, PAIRS[:1]), tmp_path / "s"
    with pytest.raises(Interrupted):
        build_store(directory, sources, small_tokenizer, **RULES, engine=Counting(stop_after=2))
    pairs, rules, tokenizer = PAIRS[:1], RULES, small_tokenizer
    if change == "rows":
        pairs = [(SOURCES[0], rows("a", 40, first=1))]
        sources = stored(tmp_path, pairs)
    elif change == "choice":
        kept = np.arange(1, 40)
        pairs, sources = [(SOURCES[0], PAIRS[0][1][1:])], [(SOURCES[0], StoredRows(sources[0][1].path, kept))]
    elif change == "rules":
        rules = RULES | {"negatives": 1}
    else:
        tokenizer = small_tokenizer.limited_to(9)
    build_store(directory, sources, tokenizer, **rules)
    plain_store(tmp_path / "plain", pairs, tokenizer, rules)
    assert_plain(directory, tmp_path / "plain")


def die_at(monkeypatch: pytest.MonkeyPatch, number: int) -> Callable[[], bool]:
    """Let the process die at its `number`-th write of the store's files; returns whether it did."""
    done, writes = [0], (Column.extend, store_build.write_json)

    def mortal(write: Callable[..., Any]) -> Callable[..., Any]:
        def instead(*arguments: Any, **options: Any) -> Any:
            done[0] += 1
            if done[0] == number:
                raise Interrupted
            return write(*arguments, **options)

        return instead

    def torn(column: Column, count: int, blocks: Any) -> int:
        """Dies before the blocks, or behind the first of them."""

        def some() -> Any:
            for block in blocks:
                yield block[: len(block) // 2 + 1]
                done[0] += 1
                if done[0] == number:
                    raise Interrupted
                yield block[len(block) // 2 + 1 :]

        return mortal(writes[0])(column, count, some())  # type: ignore[no-any-return]

    monkeypatch.setattr(Column, "extend", torn)
    monkeypatch.setattr(store_build, "write_json", mortal(writes[1]))
    return lambda: done[0] >= number


def test_killed_at_any_write_the_old_store_is_left(
    tmp_path: Path, small_tokenizer: Tokenizer, plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = stored(tmp_path, PAIRS, shards=2)
    build_store(tmp_path / "old", sources[:2], small_tokenizer, **RULES)
    plain_store(tmp_path / "two", PAIRS[:2], small_tokenizer, RULES)
    texts = [TokenStore(tmp_path / "old").text(i).tolist() for i in range(len(TokenStore(tmp_path / "old")))]
    deaths = 0
    for number in range(1, 100):
        directory = tmp_path / f"{number}"
        shutil.copytree(tmp_path / "old", directory)
        with monkeypatch.context() as patch:
            died = die_at(patch, number)
            try:
                append_store(directory, sources[2:], small_tokenizer, **RULES)
            except Interrupted:
                deaths += 1
        if not died():
            break
        store = TokenStore(directory)
        assert [store.text(i).tolist() for i in range(len(store))] == texts
        store.verify()
        append_store(directory, sources[2:], small_tokenizer, **RULES)
        assert_plain(directory, plain)
    assert deaths >= 10, "tokens, offsets, keys (each before and within), rows, languages, meta.json"


def test_a_store_that_others_read_may_grow(tmp_path: Path, small_tokenizer: Tokenizer) -> None:
    build_store(tmp_path, PAIRS[:1], small_tokenizer, **RULES)
    store = TokenStore(tmp_path)
    before = [store.text(i).tolist() for i in range(len(store))]
    counts = append_store(tmp_path, PAIRS[1:], small_tokenizer, **RULES)
    assert [store.text(i).tolist() for i in range(len(store))] == before
    assert counts["texts"] == len(TokenStore(tmp_path)) > len(store)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"negatives": 4}, "built with negatives = 3, not 4"),
        ({"seed": 8}, "built with seed = 7, not 8"),
        ({"instruction_share": 0.3}, "built with instruction_share = 0.4, not 0.3"),
    ],
)
def test_other_rules_are_refused(
    tmp_path: Path, small_tokenizer: Tokenizer, change: dict[str, Any], message: str
) -> None:
    build_store(tmp_path, PAIRS[:1], small_tokenizer, **RULES)
    before = contents(tmp_path)
    with pytest.raises(ConfigError, match=message):
        append_store(tmp_path, PAIRS[1:], small_tokenizer, **RULES | change)
    with pytest.raises(ConfigError, match="another tokenizer"):
        append_store(tmp_path, PAIRS[1:], small_tokenizer.limited_to(9), **RULES)
    with pytest.raises(ConfigError, match="has the source 'a' already"):
        append_store(tmp_path, PAIRS[:1], small_tokenizer, **RULES)
    with pytest.raises(ConfigError, match="has the source 'b' already"):
        build_store(tmp_path, [PAIRS[1], PAIRS[1]], small_tokenizer, **RULES)
    assert contents(tmp_path) == before


def test_mistakes_are_told(tmp_path: Path, small_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"meta\.json does not exist"):
        append_store(tmp_path / "absent", PAIRS, small_tokenizer, **RULES)
    ((source, own),) = stored(tmp_path, PAIRS[:1])
    beyond = StoredRows(own.path, np.array([1, 40]))
    with pytest.raises(DataError, match="has 40 rows, but row 40 is to be kept"):
        build_store(tmp_path / "s", [(source, beyond)], small_tokenizer, **RULES)
    monkeypatch.setattr(store_build, "MOST_TEXTS", 12)
    build_store(tmp_path / "s", PAIRS[:1], small_tokenizer, **RULES)
    with pytest.raises(DataError, match="would hold 23 texts, 12 is the most"):
        append_store(tmp_path / "s", [(SOURCES[2], rows("c", 40))], small_tokenizer, **RULES)
    TokenStore(tmp_path / "s").verify()


def test_a_store_without_keys_is_read_but_does_not_grow(
    tmp_path: Path, small_tokenizer: Tokenizer, plain: Path
) -> None:
    shutil.copytree(plain, tmp_path / "s")
    store = TokenStore(tmp_path / "s")
    for call in (store.verify, lambda: append_store(tmp_path / "s", [], small_tokenizer, **RULES)):
        with pytest.raises(DataError, match="older version"):
            call()


def test_an_empty_store_opens_and_grows(tmp_path: Path, small_tokenizer: Tokenizer, plain: Path) -> None:
    build_store(tmp_path, [], small_tokenizer, **RULES)
    assert len(TokenStore(tmp_path)) == 0
    TokenStore(tmp_path).verify()
    append_store(tmp_path, PAIRS, small_tokenizer, **RULES)
    assert_plain(tmp_path, plain)


def change(path: Path, kind: str, place: int, value: int) -> None:
    """Overwrite one element of a file of numbers."""
    array = np.memmap(path, kind, "r+", offset=0 if path.suffix == ".bin" else 128)
    array[place] = value
    array.flush()


DAMAGE = pytest.mark.parametrize(
    ("name", "kind", "place", "value", "message"),
    [
        ("tokens.bin", "<u4", 0, 400, "tokens.bin: id 400 is not in the vocabulary of 400"),
        ("tokens.bin", "<u4", 0, 399, "tokens.bin: a text from 0 on does not end in its one EOS"),
        ("tokens.bin", "<u4", -1, 5, "tokens.bin: a text from 0 on does not end in its one EOS"),
        ("offsets.npy", "<i8", 0, 1, "offsets.npy: the texts from 0 on do not follow each other"),
        ("offsets.npy", "<i8", 2, 10**6, "offsets.npy: the texts from 0 on do not follow each other"),
        ("offsets.npy", "<i8", 1, 2, "tokens.bin: a text from 0 on does not end in its one EOS"),
        ("rows/a.npy", "<i4", 0, 10**6, "rows/a.npy: a row from 0 on has a number that is no text"),
        ("rows/a.npy", "<i4", 1, -1, "rows/a.npy: a row from 0 on has a number that is no text"),
        ("languages/a.npy", "<u2", 3, 3, "languages/a.npy: a row from 0 on has a language that is not in the list"),
    ],
)


@DAMAGE
def test_damage_is_found_and_named(
    tmp_path: Path, small_tokenizer: Tokenizer, name: str, kind: str, place: int, value: int, message: str
) -> None:
    build_store(tmp_path, PAIRS, small_tokenizer, **RULES)
    change(tmp_path / name, kind, place, value)
    with pytest.raises(DataError, match="has changed since it was built") as told:
        TokenStore(tmp_path).verify()
    assert str(tmp_path / name) in str(told.value)


@DAMAGE
def test_a_store_that_was_built_wrongly_is_found(
    tmp_path: Path, small_tokenizer: Tokenizer, name: str, kind: str, place: int, value: int, message: str
) -> None:
    """The digests are those of the files, but the files break what a store promises."""
    build_store(tmp_path, PAIRS, small_tokenizer, **RULES)
    change(tmp_path / name, kind, place, value)
    meta = json.loads((tmp_path / "meta.json").read_text())
    meta["files"][name] = digest_file(tmp_path / name)
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(DataError, match=message):
        TokenStore(tmp_path).verify()


def test_a_text_that_is_there_twice_is_found(tmp_path: Path, small_tokenizer: Tokenizer) -> None:
    build_store(tmp_path, PAIRS, small_tokenizer, **RULES)
    keys = np.memmap(tmp_path / "keys.npy", "<u8", "r+", offset=128)
    keys[2:4] = keys[:2]
    keys.flush()
    meta = json.loads((tmp_path / "meta.json").read_text())
    for digest, message in ((None, "has changed"), (digest_file(tmp_path / "keys.npy"), "a text is there twice")):
        meta["files"]["keys.npy"] = digest
        (tmp_path / "meta.json").write_text(json.dumps(meta))
        with pytest.raises(DataError, match=message):
            TokenStore(tmp_path).verify()


@pytest.mark.parametrize("name", ["tokens.bin", "offsets.npy", "rows/a.npy", "languages/b.npy"])
def test_short_and_missing_files_are_refused(tmp_path: Path, small_tokenizer: Tokenizer, name: str) -> None:
    build_store(tmp_path, PAIRS, small_tokenizer, **RULES)
    path = tmp_path / name
    os.truncate(path, path.stat().st_size - 1)
    for _ in range(2):
        with pytest.raises(DataError, match="build again") as told:
            TokenStore(tmp_path).languages("b")
        assert str(path) in str(told.value)
        path.unlink(missing_ok=True)


def test_another_kind_of_file_is_refused(tmp_path: Path, small_tokenizer: Tokenizer) -> None:
    build_store(tmp_path, PAIRS, small_tokenizer, **RULES)
    np.save(tmp_path / "offsets.npy", np.load(tmp_path / "offsets.npy").astype(np.float64))
    with pytest.raises(DataError, match="does not hold rows of int64"):
        TokenStore(tmp_path)
    build_store(tmp_path, PAIRS, small_tokenizer, **RULES)
    np.save(tmp_path / "rows" / "a.npy", np.load(tmp_path / "rows" / "a.npy")[1:])
    with pytest.raises(DataError, match="does not hold 120 rows in all"):
        TokenStore(tmp_path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pairs=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2))), at_once=st.integers(1, 9))
def test_places_of_equal_keys(monkeypatch: pytest.MonkeyPatch, pairs: list[tuple[int, int]], at_once: int) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(store_build, "_SORTED_AT_ONCE", at_once)
        found = first_places(np.array(pairs, np.uint64).reshape(-1, 2))
    assert found.tolist() == [pairs.index(pair) for pair in pairs]


def test_only_the_listed_rows_are_counted_as_work(tmp_path: Path, small_tokenizer: Tokenizer) -> None:
    """Shards of which no row is kept are no task; the progress counts rows that are kept."""
    ((source, own),) = stored(tmp_path, PAIRS[:1], shards=4)
    engine = Counting()
    some = [(source, StoredRows(own.path, np.array([0, 1, 39])))]
    counts = build_store(tmp_path / "s", some, small_tokenizer, **RULES, engine=engine)
    assert (counts["rows"], engine.ran) == (3, ["000-00000", "000-00003"])
