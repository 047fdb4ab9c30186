"""The scripts of examples/ run as they stand, in this process."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_search_folder(model_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "a.txt").write_text("Good morning, how are you today?\n\nThe weather is fine.\n", encoding="utf-8")
    main = runpy.run_path(str(EXAMPLES / "search_folder.py"))["main"]
    main(str(model_directory), str(folder), "weather")
    first = capsys.readouterr().out
    assert "passages embedded" in first
    assert "a.txt, line 1" in first
    main(str(model_directory), str(folder), "weather")
    assert "0 passages embedded" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("script", "package"), [("langchain_embeddings", "langchain_core"), ("llamaindex_embeddings", "llama_index.core")]
)
def test_adapters(script: str, package: str, model_directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip(package)
    example = runpy.run_path(str(EXAMPLES / f"{script}.py"))
    example["main"](str(model_directory), "weather")
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) == 2
    assert float(lines[0].split()[0]) >= float(lines[1].split()[0])
