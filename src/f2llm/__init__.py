"""f2llm: train, shrink, evaluate and run multilingual text embedding models by one open recipe (F2LLM-v2)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from f2llm.core.errors import F2LLMError
    from f2llm.core.types import Example
    from f2llm.model.doctor import diagnose
    from f2llm.model.embedder import Embedder
    from f2llm.pipeline.build import build
    from f2llm.text.tokenizer import Tokenizer

__version__ = "0.1.0"
# Name -> module; imported on first use, so that `import f2llm` and `f2llm --help` do not wait for torch.
_HOMES = {
    "Embedder": "f2llm.model.embedder",
    "Example": "f2llm.core.types",
    "F2LLMError": "f2llm.core.errors",
    "Tokenizer": "f2llm.text.tokenizer",
    "build": "f2llm.pipeline.build",
    "diagnose": "f2llm.model.doctor",
}
__all__ = ["Embedder", "Example", "F2LLMError", "Tokenizer", "__version__", "build", "diagnose"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'f2llm' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
