"""Data sets of the hub: pinned, only what is needed, and one sentence where there is no network."""

from __future__ import annotations

import fnmatch
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from f2llm.core.errors import ConfigError, DataError
from f2llm.data import convert, hub

COMMIT = "0123456789abcdef" * 2 + "01234567"
PLACE = f"hf://datasets/owner/name@{COMMIT}"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("hf://datasets/owner/name", "it has no commit; give the full commit hash"),
        ("hf://datasets/owner/name@", "it has no commit"),
        ("hf://datasets/owner/name@main", "'main' is none; give the full commit hash .40 hexadecimal digits. after @"),
        (f"{PLACE[:-1]}", "is none; .* the same recipe would then make other data"),
        (f"{PLACE[:-1]}X/data", "is none"),
        ("hf://owner/name@main", "is no data set of the hub; write hf://datasets/OWNER/NAME@COMMIT"),
        (f"hf://datasets/name@{COMMIT}", "is no data set of the hub"),
        (f"{PLACE}/a/../../b", "is no data set of the hub"),
    ],
)
def test_a_place_must_be_pinned(path: str, message: str) -> None:
    assert hub.is_hub(path)
    with pytest.raises(ConfigError, match=message):
        hub.fetch(path)


def test_the_parts_of_a_place() -> None:
    assert hub.parse(PLACE) == ("owner/name", COMMIT, "")
    assert hub.parse(f"{PLACE}/data/train/") == ("owner/name", COMMIT, "data/train")
    assert not hub.is_hub("data/hf")


class Hub:
    """In place of the hub: copies nothing, notes what it was asked for, gives a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: dict[str, Any] = {}

    def __call__(self, name: str, **options: Any) -> str:
        self.asked = {"name": name, **options}
        return str(self.folder)

    def takes(self, *names: str) -> list[str]:
        """Which files it would download, by the rules of huggingface_hub."""
        ignored = self.asked["ignore_patterns"] or []
        return [
            name
            for name in names
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in self.asked["allow_patterns"])
            and not any(fnmatch.fnmatchcase(name, pattern) for pattern in ignored)
        ]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    stand_in = Hub(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", stand_in)
    return stand_in


FILES = (
    "csn_go.parquet", "data/csn_php.parquet", "csn_ccr_go.parquet", "xcsn_go.parquet", "a[1].parquet", "README.md",
    "en/train.csv", "fr/train.csv.gz", "train/state.json", "train/data-0.arrow", "test.json", "p.json",
)  # fmt: skip
TABLE = {"language": "en", "query": ["q"], "positive": ["p"], "unit": "key"}


@pytest.mark.parametrize(
    ("name", "options", "taken"),
    [
        ("released_retrieval", {"files": ["csn_{query}", "!csn_ccr_*"]}, FILES[:2]),
        ("released_retrieval", {"files": ["csn_*"], "language": "en"}, FILES[:3]),
        ("released_retrieval", {"files": ["a[1]"]}, FILES[4:5]),
        ("pairs_table", {"query": ["q"], "positive": ["p"], "files": "{code}/train.csv"}, FILES[6:8]),
        ("pairs_table", TABLE | {"files": "train"}, FILES[8:10]),
        ("pairs_table", TABLE | {"files": "p.json", "leave_out": "test.json"}, FILES[10:]),
        ("bitext_lines", {"files": ["{code}/train.csv"], "pairs": [["en", "fr"]], "documents": "test.json"},
         (*FILES[6:8], FILES[10])),
        ("squad", {"files": "{code}t.json"}, FILES[10:11]),
        ("lines_two_way", {"language": "en", "classes": {"p.json": "a", "test.json": "b"}}, FILES[10:]),
        ("bible_xml", {"pairs": [["*", "eng"]]}, FILES),
    ],
)  # fmt: skip
def test_only_the_files_that_a_source_needs(name: str, options: Any, taken: tuple[str, ...], fake: Hub) -> None:
    assert convert.fetch(name, PLACE, options) == fake.folder
    assert {key: fake.asked[key] for key in ("name", "repo_type", "revision")} == {
        "name": "owner/name", "repo_type": "dataset", "revision": COMMIT
    }  # fmt: skip
    assert fake.takes(*FILES) == list(taken)
    for file in FILES:
        (fake.folder / file).parent.mkdir(exist_ok=True)
        (fake.folder / file).touch()
    here = [fake.folder] if taken is FILES else [fake.folder / file for file in sorted(taken)]
    assert convert.needed_files(name, fake.folder, options) == here, "the same files when they are here"
    (fake.folder / "sub").mkdir()
    assert convert.fetch(name, f"{PLACE}/sub", options) == fake.folder / "sub"
    assert fake.takes(*(f"sub/{file}" for file in FILES)) == [f"sub/{file}" for file in taken]
    assert fake.takes(*FILES) == []


def test_a_single_file(fake: Hub) -> None:
    (fake.folder / "en").mkdir()
    (fake.folder / "en" / "train.csv").touch()
    assert convert.fetch("pairs_table", f"{PLACE}/en/train.csv", TABLE) == fake.folder / "en" / "train.csv"
    assert fake.takes(*FILES) == ["en/train.csv"]
    with pytest.raises(DataError, match=rf"{PLACE}/de: the data set has no de at this commit; correct the `path`"):
        hub.fetch(f"{PLACE}/de")
    with pytest.raises(ConfigError, match="unknown option 'queries'"):
        convert.fetch("pairs_table", PLACE, TABLE | {"queries": ["q"]})


def test_an_unreachable_hub_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise ConnectionError("no route to host\nand much more")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(DataError, match=rf"gave no {PLACE}, and it is not in the cache: no route to host$"):
        hub.fetch(PLACE)


def cache(root: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes], listed: list[str]) -> Path:
    """A cache as huggingface_hub lays it out: blobs, links to them, and the list of the data set's files."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(root))
    store = root / "datasets--owner--name"
    (store / "blobs").mkdir(parents=True)
    for number, (name, content) in enumerate(files.items()):
        blob = store / "blobs" / f"{number:040x}"
        blob.write_bytes(content)
        link = store / "snapshots" / COMMIT / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    (store / "trees").mkdir()
    entries = {name: {"size": 1, "blob_id": "0" * 40} for name in listed}
    (store / "trees" / f"{COMMIT}.json").write_text(json.dumps({"format_version": 1, "files": entries}))
    return store / "snapshots" / COMMIT


def test_a_source_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    released = tmp_path / "x.parquet"
    pq.write_table(pa.table({"query": ["q"], "passage": ["p"], "negative_1": ["n"]}), released)
    files = {"mela.parquet": released.read_bytes(), "en/train.csv": b"q,p\na,b\n"}
    folder = cache(tmp_path / "cache", monkeypatch, files, [*files, "other.parquet"])
    options: dict[str, Any] = {"files": ["mela"], "language": "en"}
    root = convert.fetch("released_retrieval", PLACE, options)
    assert root == folder
    assert [row.id for row in convert.convert("released_retrieval", root, "s", options, 0)] == ["mela/0"]
    options = {"query": ["q"], "positive": ["p"], "files": "{code}/train.csv", "unit": "#"}
    root = convert.fetch("pairs_table", PLACE, options)
    assert [row.groups for row in convert.convert("pairs_table", root, "s", options, 0)] == [("name/1",)]
    options = {"query": ["q"], "positive": ["p"], "language": "en", "unit": "#"}
    root = convert.fetch("pairs_table", f"{PLACE}/en/train.csv", options)
    (row,) = convert.convert("pairs_table", root, "s", options, 0)
    assert (row.id, row.groups) == ("train.csv/2", ("train.csv/1",)), "not the name of the blob"


def test_what_the_cache_lacks_is_told_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache(tmp_path, monkeypatch, {"mela.parquet": b""}, ["mela.parquet", "muri.parquet"])
    with pytest.raises(DataError, match=r"gave no hf://.*, and it is not in the cache: "):
        convert.fetch("released_retrieval", PLACE, {"files": ["muri"]})
    with pytest.raises(DataError, match=r"gave no hf://.*, and it is not in the cache: "):
        hub.fetch(PLACE.replace("name", "another"))


def test_names_of_places_on_the_disk(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "data")
    assert hub.own_name(tmp_path / "data" / ".." / "data") == "data"
    assert hub.own_name(tmp_path / "link") == "data"
    assert hub.own_name(Path("a/../file.csv")) == "file.csv"
