"""A model directory as mteb wants it: instructions, vectors from the store, any dimension and precision.

Two kinds of directory. A Qwen3 decoder, such as every export of this package, runs in `model.embedder` with the task's
instruction; any other directory of sentence-transformers runs in mteb's own wrapper with the prompts it brings. Either
way a text is encoded once at full width in float32; `MtebModel.at` gives what a smaller dimension or a coarser
precision makes of the same vectors, so that they cost no second pass.

Instructions are those that mteb holds for F2LLM-v2, asked of the installed package when they are needed, and where it
has none for a task those of the task's type, of the task itself, and of its class, in this order (as mteb looks them
up). A query reads "Instruct: {instruction}\\nQuery: {text}", a document stays bare; the texts of a symmetric task
(STS, bitext, classification, clustering, pairs) are all queries.

Vectors of a coarser precision (`model.vectors.quantize`) come back as float32, so any of mteb's evaluators reads them:
cosines are those of the stored numbers.

Limits: float32; text only; a model that needs code of its own is refused, not run.
"""

from __future__ import annotations

import json
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, get_args

import numpy as np
import torch

from f2llm.core.errors import ConfigError, ModelError
from f2llm.core.extras import optional
from f2llm.core.files import digest_json
from f2llm.core.log import warn
from f2llm.eval.mteb_cache import VectorStore
from f2llm.eval.mteb_tasks import task_names
from f2llm.model import checkpoint
from f2llm.model.embedder import Embedder
from f2llm.model.engines.load import dtype_of
from f2llm.model.vectors import Precision, Vectors, dequantize, quantize, truncate
from f2llm.text.prompts import DEFAULT_INSTRUCTION, SYMMETRIC_INSTRUCTIONS, query_prompt, with_prompt

_TABLE = 'give one table of texts, such as {"STS": "Retrieve similar text."}'
REGISTERED = "codefuse-ai/F2LLM-v2-0.6B"
# What F2LLM-v2 asks by the type of a task (reference implementation), where the installed mteb does not know the model.
BY_TYPE = {**SYMMETRIC_INSTRUCTIONS, "query": DEFAULT_INSTRUCTION}


def registered_instructions() -> dict[str, str]:
    """Task, type or "query" -> instruction of F2LLM-v2 in the installed mteb; `BY_TYPE` where it does not have it."""
    try:
        found = optional("mteb", "eval").get_model_meta(REGISTERED).loader_kwargs["prompts_dict"]
    except KeyError:
        warn(f"the installed mteb does not know {REGISTERED}; instructions are those of the tasks' types")
        return dict(BY_TYPE)
    return {name: text for name, text in found.items() if name != "document"}


def read_instructions(path: Path) -> dict[str, str]:
    """Instructions out of a JSON or TOML file, a flat table: a task's name, a type or "query" -> one sentence.

    "" means no instruction. ConfigError for a file that is no such table and for a key that names nothing.
    """
    try:
        text = path.read_text("utf-8")
        content = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (OSError, ValueError) as error:  # all that the two parsers raise are of the second kind
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"--instructions {path} cannot be read: {reason}; {_TABLE}") from None
    if not isinstance(content, dict) or not all(isinstance(text, str) for text in content.values()):
        raise ConfigError(f"--instructions {path} holds something else; {_TABLE}")
    types = get_args(optional("mteb.abstasks.task_metadata", "eval").TaskType)
    unknown = sorted(content.keys() - {*types, "query", *task_names()})
    if unknown:
        raise ConfigError(f"--instructions {path}: {unknown[0]!r} is no task of mteb, no type of tasks and not query")
    return content


def instruction(metadata: Any, prompt_type: str | None, table: Mapping[str, str]) -> str:
    """What a text of a task is encoded for, "" for a document.

    `metadata` is the task's of mteb; `prompt_type` is "query", "document" or None for the texts of a symmetric task. A
    task that mteb does not have, such as a local mirror, takes the instruction of the one it is adapted from.
    """
    if prompt_type == "document":
        return ""
    for key in (metadata.name, *_originals(metadata), metadata.type, prompt_type or ""):
        if key in table:
            return table[key]
    own = metadata.prompt
    if isinstance(own, dict):
        own = own.get(prompt_type or "query")
    return own or optional("mteb.abstasks.abstask", "eval").get_abstask_prompt(metadata.name) or ""


def _originals(metadata: Any) -> list[str]:
    """The tasks that a task unknown to mteb, such as a local mirror, was made from."""
    return [] if metadata.name in task_names() else list(metadata.adapted_from or [])


@dataclass
class Speed:
    """What encoding took so far: texts, their tokens, those cut at the model's limit, seconds."""

    texts: int = 0
    tokens: int = 0
    cut: int = 0
    seconds: float = 0.0

    def add(self, texts: int, tokens: int, cut: int, seconds: float) -> None:
        self.texts, self.tokens, self.cut = self.texts + texts, self.tokens + tokens, self.cut + cut
        self.seconds += seconds

    def since(self, before: Speed) -> Speed:
        return Speed(*(now - then for now, then in zip(astuple(self), astuple(before), strict=True)))


class Source(Protocol):
    """Where vectors of full width come from."""

    width: int
    matryoshka_dims: list[int]
    max_seq_length: int
    parameters: int
    speed: Speed

    def prompt(self, metadata: Any, prompt_type: str | None) -> str:
        """What tells the vectors of the same text apart: the prompt that the model reads before it."""

    def encode(self, texts: list[str], metadata: Any, prompt_type: Any) -> Vectors:
        """Vectors [N, width] of distinct texts."""

    def similarity(self, a: Any, b: Any) -> Any: ...

    def similarity_pairwise(self, a: Any, b: Any) -> Any: ...


class InstructSource:
    """A Qwen3 directory in `model.embedder`, with an instruction before each query."""

    def __init__(self, directory: Path, instructions: Mapping[str, str], weights: str = "float32") -> None:
        self.embedder = Embedder.load(directory, device=device(), dtype=dtype_of(weights))
        self.instructions = {**registered_instructions(), **instructions}
        self.width, self.matryoshka_dims = self.embedder.dims, self.embedder.matryoshka_dims
        self.max_seq_length = self.embedder.max_seq_length
        self.parameters = checkpoint.read_shape(directory).parameters
        self.speed = Speed()

    def prompt(self, metadata: Any, prompt_type: str | None) -> str:
        return query_prompt(instruction(metadata, prompt_type, self.instructions))

    def encode(self, texts: list[str], metadata: Any, prompt_type: Any) -> Vectors:
        prompt, started = self.prompt(metadata, _value(prompt_type)), time.perf_counter()
        ids, cut = self.embedder.tokenizer.encode_counted([with_prompt(text, prompt) for text in texts])
        found = self.embedder.encode_ids(ids)
        self.speed.add(len(texts), sum(map(len, ids)), cut, time.perf_counter() - started)
        return found

    def similarity(self, a: Any, b: Any) -> Any:
        return optional("mteb.similarity_functions", "eval").cos_sim(a, b)

    def similarity_pairwise(self, a: Any, b: Any) -> Any:
        return optional("mteb.similarity_functions", "eval").pairwise_cos_sim(a, b)


class WrappedSource:
    """Any directory of sentence-transformers, in mteb's own wrapper."""

    def __init__(self, directory: Path) -> None:
        model = sentence_transformer(directory)
        wrapper = optional("mteb.models.sentence_transformer_wrapper", "eval").SentenceTransformerEncoderWrapper
        self.wrapper = wrapper(model)
        # The method's name has changed; older versions know the second only.
        width = getattr(model, "get_embedding_dimension", None) or model.get_sentence_embedding_dimension
        self.width = int(width())
        self.matryoshka_dims = _stated_dims(directory, self.width)
        self.max_seq_length = int(model.max_seq_length or 0)
        self.parameters = sum(parameter.numel() for parameter in model.parameters())
        self.speed = Speed()

    def prompt(self, metadata: Any, prompt_type: str | None) -> str:
        prompts = self.wrapper.model_prompts or {}
        kind = optional("mteb.types", "eval").PromptType(prompt_type) if prompt_type else None
        return prompts.get(self.wrapper.get_prompt_name(metadata, kind)) or ""

    def encode(self, texts: list[str], metadata: Any, prompt_type: Any) -> Vectors:
        rows = optional("datasets", "eval").Dataset.from_dict({"text": texts})
        loader: Any = torch.utils.data.DataLoader(rows, batch_size=256)
        started = time.perf_counter()
        found = self.wrapper.encode(
            loader, task_metadata=metadata, hf_split="", hf_subset="", prompt_type=prompt_type,
            batch_size=32, show_progress_bar=False,
        )  # fmt: skip
        seconds, prompt = time.perf_counter() - started, self.prompt(metadata, _value(prompt_type))
        tokens, cut = tokens_read(self.wrapper.model, [prompt + text for text in texts])
        self.speed.add(len(texts), tokens, cut, seconds)
        return np.asarray(found, dtype=np.float32)

    def similarity(self, a: Any, b: Any) -> Any:
        return self.wrapper.similarity(a, b)

    def similarity_pairwise(self, a: Any, b: Any) -> Any:
        return self.wrapper.similarity_pairwise(a, b)


def sentence_transformer(model: Path | str, extra: str = "eval") -> Any:
    """The model of a directory or hub id in sentence-transformers; ModelError where that package cannot read it."""
    package = optional("sentence_transformers", extra)
    optional("transformers.utils.logging", extra).disable_progress_bar()  # of the weights, in another form than ours
    try:
        return package.SentenceTransformer(str(model), device=device(), trust_remote_code=False)
    except Exception as error:  # of transformers, safetensors, the hub and the modules that the directory names
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"{model} cannot be read by sentence-transformers: {reason}") from None


def tokens_read(model: Any, texts: list[str]) -> tuple[int, int]:
    """How many tokens of the texts a model of sentence-transformers reads, and how many texts it cuts."""
    lengths = [len(ids) for ids in model.tokenizer(texts, verbose=False)["input_ids"]]
    limit = int(model.max_seq_length or 0) or max(lengths, default=0)
    return sum(min(length, limit) for length in lengths), sum(length > limit for length in lengths)


class MtebModel:
    """The encoder that mteb's evaluators call: the vectors of one model at one dimension and one precision.

    `directory`, `name` and `digest` say which model; the digest is over the files that make its vectors. `dim` is None
    for the full width, of which the vectors are as the model gives them; shorter ones are cut and brought to unit
    length.
    """

    def __init__(
        self,
        source: Source,
        store: VectorStore,
        *,
        directory: Path,
        name: str,
        digest: str,
        dim: int | None = None,
        precision: Precision = "float32",
    ) -> None:
        self.source, self.store, self.directory, self.name, self.digest = source, store, directory, name, digest
        self.dim, self.precision = dim, precision
        self.mteb_model_meta = optional("mteb.models", "eval").ModelMeta.create_empty(
            overwrites={"name": f"local/{name}", "revision": digest, "embed_dim": dim or source.width}
        )

    def at(self, dim: int | None, precision: Precision) -> MtebModel:
        """The same model at another dimension or precision; the vectors are shared."""
        return MtebModel(
            self.source, self.store, directory=self.directory, name=self.name, digest=self.digest, dim=dim,
            precision=precision,
        )  # fmt: skip

    def encode(
        self, inputs: Any, *, task_metadata: Any, hf_split: str, hf_subset: str, prompt_type: Any = None, **_: Any
    ) -> Vectors:
        """Vectors [N, dim] of the texts in mteb's `inputs`, batches with a list under "text"."""
        texts = [text for batch in inputs for text in batch["text"]]
        encode = partial(self.source.encode, metadata=task_metadata, prompt_type=prompt_type)
        full_ND = self.store.vectors(self._key(task_metadata, _value(prompt_type)), texts, encode)
        return dequantize(quantize(full_ND if self.dim is None else truncate(full_ND, self.dim), self.precision))

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        return self.source.similarity(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        return self.source.similarity_pairwise(embeddings1, embeddings2)

    def _key(self, metadata: Any, prompt_type: str | None) -> str:
        prompt = self.source.prompt(metadata, prompt_type)
        # sentence-transformers may send queries and documents through different modules of a model.
        return prompt if isinstance(self.source, InstructSource) else f"{prompt_type}\0{prompt}"


def load_model(
    model: Path | str,
    store: Path,
    *,
    name: str | None = None,
    instructions_file: Path | None = None,
    weights: str = "float32",
) -> MtebModel:
    """The model of a directory or a hub id, with its vectors below `store`; ModelError where it cannot be read.

    `weights` are kept in this type ("float32", "float16", "int8"), which makes another model: ConfigError where the
    directory is none of `model.embedder`.
    """
    directory = checkpoint.resolve(model)
    instructions = read_instructions(instructions_file) if instructions_file else {}
    source: Source
    if is_qwen3(directory):
        source = InstructSource(directory, instructions, weights)
    elif weights != "float32":
        raise ConfigError(f"--weights {weights}: {directory} does not run in this package; leave it out")
    else:
        source = WrappedSource(directory)
        if instructions:
            warn(f"{directory} is no decoder with instructions: --instructions does not apply to it")
    digest = checkpoint.model_digest(directory)
    digest = digest if weights == "float32" else digest_json([digest, weights])
    vectors = VectorStore(store / digest[:16], source.width)
    return MtebModel(source, vectors, directory=directory, name=name or _name_of(directory), digest=digest)


def nested_dims(source: Source, dims: Sequence[int] | None) -> list[int | None]:
    """The dimensions to score, ascending: those of `dims` (the model's own for None) below its width, then None."""
    wanted = source.matryoshka_dims if dims is None else dims
    wrong = [dim for dim in wanted if dim < 1]
    if wrong:
        raise ConfigError(f"--dims has {wrong[0]}; give whole numbers from 1")
    return [*sorted({dim for dim in wanted if dim < source.width}), None]


def _stated_dims(directory: Path, width: int) -> list[int]:
    stated = checkpoint.read_config(directory).get("matryoshka_dimensions") if _has_config(directory) else None
    return [int(dim) for dim in stated] if stated else [width]


def _has_config(directory: Path) -> bool:
    return (directory / "config.json").is_file()


def is_qwen3(directory: Path) -> bool:
    """True for a directory that runs in `model.embedder`, False for one of sentence-transformers, else ModelError."""
    if _has_config(directory) and checkpoint.read_config(directory).get("model_type") == "qwen3":
        return True
    if (directory / "modules.json").is_file():
        return False
    raise ModelError(
        f"{directory} is neither a Qwen3 model (config.json with model_type qwen3) nor one of sentence-transformers "
        "(modules.json); give the directory of one of these"
    )


def _name_of(directory: Path) -> str:
    resolved = directory.resolve()
    return resolved.parent.name if resolved.name in ("model", "final") else resolved.name


def _value(prompt_type: Any) -> str | None:
    return None if prompt_type is None else str(getattr(prompt_type, "value", prompt_type))


def device() -> str:
    """Where models run."""
    return "cuda" if torch.cuda.is_available() else "cpu"
