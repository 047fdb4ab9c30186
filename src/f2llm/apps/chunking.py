"""Blocks of text to chunks of at most so many tokens, with overlap, cut between paragraphs or sentences.

A chunk is filled with sentences until the next one no longer fits. If a paragraph ends in its second half, it ends
there. The next chunk repeats the last sentences of this one, as many as fit into the overlap. A sentence longer than a
chunk is cut at a line break, else at a space, else anywhere. Chunks never join two records (rows of a table).

Cost: every sentence is tokenised once, over-long ones about twice. Tokens of a chunk are counted as the sum over its
sentences, which is never less than those of the whole by more than a token or two.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice

from f2llm.apps.reading import Block

Count = Callable[[Sequence[str]], Sequence[int]]
# A full stop ends a sentence before white space only; the marks of scripts without spaces always do.
_BORDER = re.compile(r"[.!?…]+[\"')\]»”’]*\s+|[。！？।॥։؟۔።။།]+[\"')\]»”’」』]*\s*")
_BLOCKS = 256  # tokenised together
PARAGRAPH = "\n\n"


@dataclass(frozen=True, slots=True)
class Chunk:
    """A passage as it is embedded and found; `block` is the first of its blocks."""

    text: str
    position: int
    block: Block


@dataclass(frozen=True, slots=True)
class _Piece:
    """A sentence, its tokens, and what stands before it: what did in the text, or `PARAGRAPH` where a block begins."""

    text: str
    tokens: int
    position: int
    joint: str
    block: Block


def chunks(blocks: Iterable[Block], count: Count, size: int, overlap: int) -> Iterator[Chunk]:
    """Chunks of at most `size` tokens; `overlap` tokens at most are repeated. `count` gives the tokens of texts."""
    for _, record in groupby(blocks, key=lambda block: block.record):
        kept: list[_Piece] = []
        for piece in _pieces(record, count, size):
            while kept and _tokens(kept) + piece.tokens > size:
                cut = _cut(kept, size)
                yield _joined(kept[:cut])
                room = size - _tokens(kept[cut:]) - piece.tokens
                kept = _tail(kept[:cut], min(overlap, room)) + kept[cut:]
            kept.append(piece)
        if kept:
            yield _joined(kept)


def sentences(text: str) -> list[tuple[int, str]]:
    """The sentences of a text with their offsets; white space around them is left out."""
    found, start = list[tuple[int, str]](), 0
    for end in [*(match.end() for match in _BORDER.finditer(text)), len(text)]:
        part = text[start:end]
        if part.strip():
            found.append((start + len(part) - len(part.lstrip()), part.strip()))
        start = end
    return found


def _pieces(blocks: Iterable[Block], count: Count, size: int) -> Iterator[_Piece]:
    remaining = iter(blocks)
    while some := list(islice(remaining, _BLOCKS)):
        parts = list[tuple[Block, int, str, str]]()
        for block in some:
            end = 0
            for offset, text in sentences(block.text):
                parts.append((block, offset, block.text[end:offset] if end else PARAGRAPH, text))
                end = offset + len(text)
        # With what stands before it, for " word" may be more tokens than "word"; one more, for the border's own sake.
        tokens = count([joint + text for _, _, joint, text in parts])
        for (block, offset, joint, text), amount in zip(parts, tokens, strict=True):
            piece = _Piece(text, amount + 1, _line(block, offset), joint, block)
            yield from [piece] if piece.tokens <= size else _shortened(piece, offset, count, size)


def _line(block: Block, offset: int) -> int:
    return block.position + (block.text.count("\n", 0, offset) if block.lined else 0)


def _shortened(piece: _Piece, offset: int, count: Count, size: int) -> Iterator[_Piece]:
    """A piece of more than `size` tokens as several, of about equal length in characters, that are not."""
    text = piece.text
    length = max(1, len(text) * size // (piece.tokens + size // 4 + 1))
    parts, start = list[tuple[int, str]](), 0
    while start < len(text):
        end = _break(text, start, min(start + length, len(text)))
        parts.append((start, text[start:end]))
        start = end
    tokens = count([" " + part.strip() for _, part in parts])
    for (start, part), amount in zip(parts, tokens, strict=True):
        if part.strip():
            joint = piece.joint if start == 0 else text[start - 1] if text[start - 1].isspace() else ""
            inside = offset + start + len(part) - len(part.lstrip())
            shorter = replace(
                piece, text=part.strip(), tokens=amount + 1, position=_line(piece.block, inside), joint=joint
            )
            if shorter.tokens <= size or len(shorter.text) == 1:
                yield shorter
            else:
                yield from _shortened(shorter, inside, count, size)


def _break(text: str, start: int, end: int) -> int:
    """The place to cut at or before `end`: after the last line break, else the last space, of the second half."""
    if end == len(text):
        return end
    middle = start + (end - start) // 2
    found = max(text.rfind("\n", middle, end), -1)
    found = found if found >= 0 else text.rfind(" ", middle, end)
    return found + 1 if found >= 0 else max(end, start + 1)


def _tokens(pieces: Sequence[_Piece]) -> int:
    return sum(piece.tokens for piece in pieces)


def _cut(kept: Sequence[_Piece], size: int) -> int:
    """How many pieces make the chunk: all, or those before the last block that begins in the second half."""
    total = _tokens(kept)
    for place in range(len(kept) - 1, 0, -1):
        total -= kept[place].tokens
        if total < size / 2:
            break
        if kept[place].joint == PARAGRAPH:
            return place
    return len(kept)


def _tail(pieces: Sequence[_Piece], room: int) -> list[_Piece]:
    """The last pieces that fit into `room` tokens, never all of them."""
    start = len(pieces)
    while start > 1 and room >= pieces[start - 1].tokens:
        start -= 1
        room -= pieces[start].tokens
    return list(pieces[start:])


def _joined(pieces: Sequence[_Piece]) -> Chunk:
    text = pieces[0].text + "".join(piece.joint + piece.text for piece in pieces[1:])
    return Chunk(text, pieces[0].position, pieces[0].block)
