"""A model directory with fewer tokens: the rows of the token table that one's languages need, the rest cut away.

Nothing is trained and no number is changed: a text that keeps its pieces (see `f2llm.text.trim`) keeps its vector. That
is checked on a sample before the new directory is written. Texts outside the choice still work, with more tokens and
other vectors, which the report shows as tokens per character. Prompts count as text: those of the model are always
kept; instructions of your own keep their pieces if their language is kept, so choose English too where they are.

Cost: reads the corpus three times (texts, first words, the report) at the speed of the tokenizer, a megabyte in memory;
the weights once, in float32, and about 70 short texts through both models. Some 10 seconds for the 80M on one core.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from f2llm.core.errors import ConfigError, DataError, ModelError
from f2llm.model import checkpoint
from f2llm.model.card import short_card
from f2llm.model.decoder import Decoder
from f2llm.model.embedder import Embedder
from f2llm.model.weights import StoredWeights
from f2llm.text.lines import TextLines
from f2llm.text.prompts import DEFAULT_INSTRUCTION, query_prompt, with_prompt
from f2llm.text.tokenizer import Tokenizer
from f2llm.text.trim import (
    TokenCounts,
    after_space,
    check_coverage,
    count_tokens,
    covering,
    scripts_of,
    tokens_of_scripts,
    trim_tokenizer,
)

COVERAGE = 0.9999
TOLERANCE = 1e-6
_CHECKED_TEXTS, _CHECKED_CHARACTERS = 32, 200


@dataclass(frozen=True)
class TrimReport:
    """What trimming changed.

    `tokens_per_character` maps a label (a file of the corpus, a language of the samples) to (before, after).
    `checked` sequences kept their pieces and were found to keep their vectors.
    """

    tokens_before: int
    tokens_after: int
    table_before: int
    table_after: int
    parameters_before: int
    parameters_after: int
    tokens_per_character: dict[str, tuple[float, float]]
    checked: int


def trim(
    directory: Path | str,
    out: Path | str,
    *,
    languages: Sequence[str] = (),
    corpus: Path | str | None = None,
    coverage: float = COVERAGE,
    samples: Mapping[str, Sequence[str]] | None = None,
) -> TrimReport:
    """Write the model in `directory` to `out` with the tokens of `languages`, of `corpus`, or of both.

    `languages` (`eng`, `srp_Latn`) keep every token that a text in their scripts can have. `corpus` is a file with one
    text a line, or a folder of such `.txt` files, each named after its language; of each file stay the most frequent
    tokens that make up `coverage` of it, as a document and after a prompt. `samples` are texts by language that are
    only reported on. ConfigError for a wrong option, DataError for the corpus, ModelError for the model.
    """
    if not languages and corpus is None:
        raise ConfigError("nothing says which tokens to keep; give --languages, --corpus, or both")
    check_coverage(coverage)
    scripts, files = scripts_of(languages), {} if corpus is None else read_corpus(Path(corpus))
    texts: dict[str, Iterable[str]] = {**(samples or {}), **files}
    source = checkpoint.resolve(directory)
    checkpoint.check_out(out, [source])
    settings = checkpoint.read_settings(source)
    before = {label: count_tokens(settings.tokenizer, texts[label]) for label in texts}
    wanted = _tokens_of_prompts(settings) | (tokens_of_scripts(settings.tokenizer, scripts) if scripts else set())
    for label, file in files.items():
        wanted |= _tokens_of_file(settings.tokenizer, file, before[label], coverage)
    tokenizer, old_ids = trim_tokenizer(settings.tokenizer, wanted)
    after = {label: count_tokens(tokenizer, texts[label]).per_character for label in texts}
    stored = StoredWeights(source, checkpoint.read_shape(source)).dtype
    old = checkpoint.load(source, dtype=torch.promote_types(stored, torch.float32))
    new = _with_rows(old, old_ids, source)
    pair = Embedder(old, settings.tokenizer), Embedder(new, tokenizer)
    report = TrimReport(
        tokens_before=settings.tokenizer.vocab_size,
        tokens_after=tokenizer.vocab_size,
        table_before=old.shape.embedding_parameters,
        table_after=new.shape.embedding_parameters,
        parameters_before=old.shape.parameters,
        parameters_after=new.shape.parameters,
        tokens_per_character={label: (before[label].per_character, after[label]) for label in texts},
        checked=_check_vectors(*pair, old_ids, _some_texts(texts)),
    )
    section = _section(report, scripts, None if corpus is None else Path(corpus), coverage)
    card = f"{settings.card.rstrip()}\n\n{section}" if settings.card else short_card(Path(out).name, new.shape, section)
    checkpoint.save_like(new, out, settings, card=card, tokenizer=tokenizer, dtype=stored)
    return report


def read_corpus(path: Path) -> dict[str, TextLines]:
    """Label -> lines, of a text file or of the `.txt` files in a folder; the label is the name without ending."""
    files = sorted(path.glob("*.txt")) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{path} holds no .txt file; give a text file, or a folder with one for each language")
    return {file.stem: TextLines(file) for file in files}


def _tokens_of_prompts(settings: checkpoint.Settings) -> set[int]:
    prompts = [*settings.prompts.values(), query_prompt(DEFAULT_INSTRUCTION)]
    return covering(count_tokens(settings.tokenizer, prompts).by_id, 1.0)


def _tokens_of_file(tokenizer: Tokenizer, file: TextLines, counts: TokenCounts, coverage: float) -> set[int]:
    """Counted file by file, so that a language with little text is covered as well as one with much."""
    if not counts.tokens:
        raise DataError(f"{file.path} holds no text; give a file with one text a line")
    first_words = count_tokens(tokenizer, after_space(file))
    return covering(counts.by_id, coverage) | covering(first_words.by_id, coverage)


def _with_rows(decoder: Decoder, rows: NDArray[np.int64], source: Path) -> Decoder:
    """The decoder with these rows of its token table; the other parameters are shared with the old one."""
    if rows.max() >= decoder.shape.vocab_size:
        raise ModelError(
            f"{source}: the tokenizer has an id {rows.max()}, the token table only {decoder.shape.vocab_size} rows; "
            "copy the model again, with its own tokenizer"
        )
    tensors = decoder.state_dict()
    table = tensors["embed_tokens.weight"][torch.from_numpy(rows)]
    with torch.device("meta"):
        trimmed = Decoder(replace(decoder.shape, vocab_size=len(rows)))
    trimmed.load_state_dict({**tensors, "embed_tokens.weight": table}, assign=True)
    return trimmed


def _some_texts(texts: Mapping[str, Iterable[str]]) -> list[str]:
    """The first texts of each label and the reference texts, cut short."""
    each = math.ceil(_CHECKED_TEXTS / max(len(texts), 1))
    found = [text for label in texts for text in islice(texts[label], each)]
    return [text[:_CHECKED_CHARACTERS] for text in (*found, *checkpoint.REFERENCE_TEXTS)]


def _check_vectors(old: Embedder, new: Embedder, old_ids: NDArray[np.int64], texts: Sequence[str]) -> int:
    """How many of the texts, with and without prompt, keep their pieces; ModelError if one then changes its vector."""
    texts = [with_prompt(text, prompt) for prompt in ("", query_prompt(DEFAULT_INSTRUCTION)) for text in texts]
    pairs = zip(old.tokenizer.encode(texts), new.tokenizer.encode(texts), strict=True)
    same = [(before, after) for before, after in pairs if old_ids[after].tolist() == before]
    if not same:
        return 0
    befores, afters = zip(*same, strict=True)
    difference = np.abs(old.encode_ids(befores, progress=True) - new.encode_ids(afters, progress=True)).max()
    if not difference < TOLERANCE:
        raise ModelError(
            f"a text with the same pieces got another vector (difference {difference:.1e}, allowed {TOLERANCE:.0e}); "
            "nothing was written: run f2llm doctor on the model"
        )
    return len(same)


def _section(report: TrimReport, scripts: Iterable[str], corpus: Path | None, coverage: float) -> str:
    """The part of the README on what was cut."""
    kept = [f"- every token that can occur in a text of the script {script}\n" for script in sorted(scripts)]
    if corpus is not None:
        kept.append(
            f"- of each file of `{corpus.name}`, the most frequent tokens that make up {coverage * 100:g}% of it\n"
        )
    labels = report.tokens_per_character.items()
    rows = "".join(f"| {label} | {before:.3f} | {after:.3f} |\n" for label, (before, after) in labels)
    table = f"\n| texts | tokens per character before | after |\n|---|---:|---:|\n{rows}" if rows else ""
    return f"""## Trimmed vocabulary

{report.tokens_after:,} of {report.tokens_before:,} tokens were kept:

{"".join(kept)}
The token table has {report.table_after:,} parameters (before: {report.table_before:,}), the whole model
{report.parameters_after:,} (before: {report.parameters_before:,}). A text that is cut into the same pieces as before
has the same vector; other texts have more pieces and other vectors.
{table}"""
