"""Keys of a recipe, set by their dotted names.

recipe, {cascade.stages.ecq3.codec.states: 8} -> with_values -> a recipe of its own
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

_CLASS = ("class_path", "init_args")


def with_values(recipe: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a recipe with some keys set.

    ``init_args`` may be left out of a key, as on the command line. What YAML shares between two places (an anchor)
    is set in one of them only.

    Args:
        recipe: As YAML gives it.
        values: By dotted keys.

    Raises:
        ValueError: If a key leads through something that has no keys.

    Example:
        >>> with_values({"codec": {"class_path": "EcqCodec"}}, {"codec.states": 8})
        {'codec': {'class_path': 'EcqCodec', 'init_args': {'states': 8}}}
    """
    changed: dict[str, Any] = _copied(recipe)
    for key, value in values.items():
        *path, last = key.split(".")
        node = changed
        for place, part in enumerate(path):
            inner = _arguments(node, part)
            node = inner[part] if isinstance(inner.get(part), dict) else inner.setdefault(part, {})
            if node is None:
                node = inner[part] = {}
            if not isinstance(node, dict):
                where = ".".join(path[: place + 1])
                raise ValueError(f"{key}: {where} has no keys, it is {node!r}")
        _arguments(node, last)[last] = value
    return changed


def find_key(resolved: Mapping[str, Any], key: str) -> bool | None:
    """Whether a resolved recipe has a key; ``None`` where it leads into something that is not set."""
    node: Any = resolved
    for part in key.split("."):
        if node is None:
            return None
        if not isinstance(node, Mapping):
            return False
        inner = node if part in node else node.get("init_args", {})
        if not isinstance(inner, Mapping) or part not in inner:
            return False
        node = inner[part]
    return True


def near_keys(resolved: Mapping[str, Any], key: str) -> list[str]:
    """Keys of a resolved recipe that are spelt alike, the likest first."""
    known = list(dict.fromkeys(_keys(resolved, "")))
    close = difflib.get_close_matches(key, known, n=3, cutoff=0.75)
    last = key.rpartition(".")[2]
    leaves = {name.rpartition(".")[2]: name for name in reversed(known)}
    close += [leaves[leaf] for leaf in difflib.get_close_matches(last, list(leaves), n=2, cutoff=0.75)]
    return list(dict.fromkeys(close))[:3]


def _arguments(node: dict[str, Any], part: str) -> dict[str, Any]:
    """Where a key of a class is set: among its arguments."""
    if "class_path" not in node or part in _CLASS:
        return node
    if not isinstance(node.get("init_args"), dict):
        node["init_args"] = {}
    arguments: dict[str, Any] = node["init_args"]
    return arguments


def _copied(value: Any) -> Any:
    """A copy in which no two places are one object, as ``copy.deepcopy`` would leave them."""
    if isinstance(value, Mapping):
        return {key: _copied(part) for key, part in value.items()}
    return [_copied(part) for part in value] if isinstance(value, list) else value


def _keys(node: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for name, value in node.items():
        key = prefix if name == "init_args" else f"{prefix}.{name}" if prefix else str(name)
        if key and name != "init_args":
            yield key
        if isinstance(value, Mapping):
            yield from _keys(value, key)
