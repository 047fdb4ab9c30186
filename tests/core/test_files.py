"""Files are whole or absent."""

import os
from pathlib import Path

import numpy as np
import pytest

from f2llm.core.errors import DataError, StorageError
from f2llm.core.files import (
    atomic_path,
    digest_tree,
    explained,
    link_directory,
    read_json,
    replace_directory,
    sweep,
    write_json,
)


def test_an_interrupted_write_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    write_json(path, {"a": 1})
    with pytest.raises(ZeroDivisionError), atomic_path(path) as temporary:
        temporary.write_text(f"half{1 // 0}")
    assert read_json(path) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["value.json"]


def test_broken_json_is_told(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(DataError, match="not valid JSON"):
        read_json(tmp_path / "x.json")
    with pytest.raises(DataError, match="does not exist"):
        read_json(tmp_path / "y.json")


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no space left"), explained(tmp_path):
        raise OSError(28, "No space left on device")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_a_full_disk_is_told_where_numpy_writes(tmp_path: Path) -> None:
    """NumPy's error says how much it wrote, but has no error number."""
    with pytest.raises(StorageError, match="no space left"), explained(tmp_path), open("/dev/full", "wb") as full:
        np.save(full, np.ones(1_000_000))


def test_a_directory_takes_the_place_of_another(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").write_text(name)
    replace_directory(tmp_path / "new", tmp_path / "old")
    assert (tmp_path / "old" / "f").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["old"]


@pytest.mark.parametrize("links", [True, False])
def test_a_directory_is_had_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    (tmp_path / "one" / "inner").mkdir(parents=True)
    (tmp_path / "one" / "inner" / "f").write_text("text")
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "old").touch()
    if not links:
        monkeypatch.setattr(os, "link", refuse)
    link_directory(tmp_path / "one", tmp_path / "two")
    assert [path.name for path in (tmp_path / "two").iterdir()] == ["inner"]
    files = [tmp_path / name / "inner" / "f" for name in ("one", "two")]
    assert os.path.samefile(*files) == links
    assert files[1].read_text() == "text"
    assert files[0].stat().st_mtime_ns == files[1].stat().st_mtime_ns
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


def test_a_tree_digest_sees_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    first = digest_tree(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    second = digest_tree(tmp_path)
    (tmp_path / "b").write_text("2")
    assert len({first, second, digest_tree(tmp_path)}) == 3
    assert digest_tree(tmp_path, skip=lambda path: path.name == "b") == digest_tree(tmp_path, skip=lambda _: True)


def test_a_directory_is_replaced_where_a_killed_process_of_the_same_number_was(tmp_path: Path) -> None:
    for name in ("old", "new", f".old.{os.getpid()}.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").write_text(name)
    replace_directory(tmp_path / "new", tmp_path / "old")
    assert (tmp_path / "old" / "f").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["old"]


def test_what_killed_processes_left_is_swept(tmp_path: Path) -> None:
    for name in (".a.json.7.tmp", ".hidden", "a.tmp", "deep/.b.7.old/f", "deep/.c.partial/f", "deep/er/.d.7.tmp"):
        write_json(tmp_path / name, 0)
    sweep(tmp_path)
    left = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file())
    assert left == [".hidden", "a.tmp", "deep/er/.d.7.tmp"]
