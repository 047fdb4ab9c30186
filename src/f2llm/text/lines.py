"""The lines of a text file, one text each, read as a stream with a progress bar."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from f2llm.core.errors import DataError
from f2llm.core.log import Bar

_READ_AT_ONCE = 1 << 20


class TextLines:
    """The lines of a UTF-8 file that are not empty, read anew from the disk by each loop; DataError where it cannot."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __iter__(self) -> Iterator[str]:
        try:
            with self.path.open("rb") as file, Bar(f"reading {self.path.name}", self.path.stat().st_size) as bar:
                number = 0
                while block := file.readlines(_READ_AT_ONCE):
                    for line in block:
                        number += 1
                        if text := line.decode("utf-8-sig").rstrip("\r\n"):
                            yield text
                    bar.advance(sum(map(len, block)))
        except OSError as error:
            raise DataError(f"{self.path} cannot be read: {error.strerror}; give a text file that can") from None
        except UnicodeDecodeError as error:
            raise DataError(f"{self.path}, line {number}: {error}; save the file as UTF-8") from None
