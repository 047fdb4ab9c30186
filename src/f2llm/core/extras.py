"""Import an optional package, or say in one sentence which extra brings it."""

from __future__ import annotations

import importlib
from typing import Any

from f2llm.core.errors import MissingDependencyError


def optional(module: str, extra: str) -> Any:
    """Return the imported `module`; MissingDependencyError names `pip install 'f2llm[extra]'` when it is absent."""
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.split(".")[0]
        message = f"the package {package!r} is needed here; install it with: pip install 'f2llm[{extra}]'"
        raise MissingDependencyError(message) from None
