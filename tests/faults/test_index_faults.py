"""An index that is killed, cut short, or out of disk: one sentence, and the next run has every passage once."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from f2llm.apps.index import Index
from f2llm.apps.index_table import open_table, scan
from f2llm.core.errors import StorageError
from tests.faults.builds import kill_when

FILES = 40
# A commit a file, so that there are many moments to be killed in.
WORK = """
import sys
from f2llm.apps import index_build
from f2llm.apps.index import Index
from f2llm.apps.index_table import exists
index_build._GROUP = 1
db, folder, model = sys.argv[1:]
(Index.open(db) if exists(db) else Index.create(db, model)).add([folder])
"""


def text(number: int, edition: int) -> str:
    return "\n\n".join(f"Edition {edition}, file {number}, paragraph {part} of the text." for part in range(4))


def write(folder: Path, edition: int) -> None:
    folder.mkdir(exist_ok=True)
    for number in range(FILES):
        (folder / f"{number}.txt").write_text(text(number, edition))


def start(db: Path, folder: Path, model: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", WORK, str(db), str(folder), str(model)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment)


def commits(db: Path) -> int:
    return len(list((db / "passages.lance" / "_versions").glob("*.manifest")))


def passages(index: Index) -> Counter[tuple[str, int, str]]:
    found = scan(open_table(index.db)[0], ["path", "position", "text"]).to_pylist()
    return Counter((row["path"], row["position"], row["text"]) for row in found)


@pytest.mark.slow
@pytest.mark.parametrize("edition", [1, 2])
def test_a_killed_run_is_completed_without_doubled_or_lost_passages(
    edition: int, tmp_path: Path, model_directory: Path
) -> None:
    db, folder = tmp_path / "db", tmp_path / "docs"
    if edition == 2:  # killed while files are replaced, some of them gone
        write(folder, 1)
        Index.create(db, model_directory).add([folder])
    write(folder, edition)
    before = commits(db)
    chance = random.Random(edition)
    kill_when(start(db, folder, model_directory), lambda: commits(db) >= before + 8, chance.random() * 0.05)
    index = Index.open(db)
    partly = passages(index)
    assert set(partly.values()) == {1}
    report = index.add([folder])
    assert 0 < report.unchanged < FILES, "what was finished was not done again"
    found = passages(index)
    whole = Index.create(tmp_path / "whole", model_directory)
    whole.add([folder])
    assert found == passages(whole)
    assert report.passages == sum(found.values())


@pytest.fixture
def index(tmp_path: Path, model_directory: Path) -> Index:
    write(tmp_path / "docs", 1)
    found = Index.create(tmp_path / "db", model_directory)
    found.add([tmp_path / "docs"])
    return found


@pytest.mark.parametrize("pattern", ["_versions/*.manifest", "data/*.lance", "_indices/*/*"])
def test_a_truncated_database_is_one_sentence(pattern: str, index: Index) -> None:
    for path in Path(index.db).glob(f"passages.lance/{pattern}"):
        os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(StorageError, match="cannot be read or written") as told:
        Index.open(index.db).search("text", mode="hybrid")
    assert str(index.db) in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("small_disk", ["300k"], indirect=True)
def test_a_full_disk_is_one_sentence_and_what_was_there_stays(
    small_disk: Path, tmp_path: Path, model_directory: Path
) -> None:
    folder = tmp_path / "docs"
    write(folder, 1)
    index = Index.create(small_disk / "db", model_directory)
    index.add([folder / "0.txt"])
    first = passages(index)
    for number in range(80):
        (folder / f"more{number}.txt").write_text(text(number, 3) * 5)
    with pytest.raises(StorageError, match=r"no space left while writing the index .* run the command again"):
        index.add([folder])
    assert set(first) <= set(passages(Index.open(small_disk / "db")))
