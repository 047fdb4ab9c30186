"""Changing a key of a recipe's data by its dotted path, as `--set a.b=value` and the variants of a grid do."""

from __future__ import annotations

import tomllib
from typing import Any

from f2llm.core.errors import ConfigError
from f2llm.core.toml_lines import KeyPath


def apply_override(data: dict[str, Any], override: str) -> KeyPath:
    """Apply one `--set a.b=value`; returns the key's path."""
    key, sign, raw = override.partition("=")
    if not sign or not key.strip():
        raise ConfigError(f"--set {override!r}: write it as key=value, for example --set training.stage1.max_steps=50")
    try:
        return set_key(data, key.strip(), _toml_value(raw))
    except ConfigError as error:
        raise ConfigError(f"--set {override!r}: {error}") from None


def set_key(data: dict[str, Any], key: str, value: Any) -> KeyPath:
    """Set the key at a dotted path, whose list entries are chosen by index, name or id; returns it with the indices."""
    *parts, last = key.split(".")
    path: KeyPath = ()
    node: Any = data
    for part in parts:
        step = _index(node, part)
        path = (*path, step)
        node = node.setdefault(step, {}) if isinstance(node, dict) else node[step]
        if not isinstance(node, dict | list):
            raise ConfigError(f"{part!r} is a value, it has no keys inside")
    step = _index(node, last)
    node[step] = value
    return (*path, step)


def _index(node: Any, part: str) -> str | int:
    if isinstance(node, dict):
        return part
    if part.isdigit() and int(part) < len(node):
        return int(part)
    names = [entry.get("name", entry.get("id")) if isinstance(entry, dict) else None for entry in node]
    if part in names:
        return names.index(part)
    known = ", ".join(str(name) for name in names if name) or f"0 to {len(node) - 1}"
    raise ConfigError(f"there is no entry {part!r}; entries: {known}")


def _toml_value(raw: str) -> Any:
    """Parse as a TOML value; what is none is taken as a string."""
    try:
        return tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        return raw
