"""A parser's message of twenty lines, cut down to the one thing that is wrong."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

from callbacks.cascade import Cascade
from callbacks.stages import Allocate, Refine, Stage
from fulgurite.codecs import CODECS
from fulgurite.evaluation.gate import Gate

_LONGEST = 300
_PATH = re.compile(r"(?:Parser key|key) \"?'?([\w.\-]+)\"?'?:")
_UNKNOWN = re.compile(
    r"(?:[Kk]ey '([^']+)' is not expected|[Uu]nrecognized arguments: (\S+)|Option '([^']+)' is not accepted|"
    r"does not accept (?:nested key|option) '([^']+)'|No action for key '([^']+)')"
)
_CLASS = re.compile(
    r"Expected a dot import path string: ([\w.]+)|[Uu]nable to import .*?['\"]?([\w.]+)['\"]?$"
)
_VALUE = re.compile(r"Expected a <class '([\w.]+)'>\.? ?(?:Got value: (.+?))?(?: Given|$)")
_NOISE = re.compile(r" ?(?:Given value type|Given value|Namespace\().*$")


def short_message(message: str, keys: Sequence[str] = ()) -> str:
    """The part of a parser's message that helps, with near names for what is unknown.

    Args:
        message: As jsonargparse gives it, with an outline of all that it tried.
        keys: Keys that a recipe may have, beside those of stages, codecs and gates.
    """
    text = " ".join(line.strip() for line in message.splitlines() if line.strip())
    path = ".".join(dict.fromkeys(_PATH.findall(text)))
    leaf = _innermost(text)
    if unknown := _UNKNOWN.search(leaf) or _UNKNOWN.search(text):
        name = next(group for group in unknown.groups() if group).lstrip("-").split("=")[0]
        where = f"{path}." if path and not name.startswith(path) else ""
        return f"unknown key {where}{name}{_near(name, [*keys, *_setting_names()])}"
    if wrong := _CLASS.search(leaf):
        name = next(group for group in wrong.groups() if group)
        return f"{path or 'the recipe'}: no class {name!r}{_near(name, list(_class_names()))}"
    if typed := _VALUE.search(leaf):
        given = f", got {typed[2]}" if typed[2] else ""
        return f"{path or 'the recipe'} must be of type {typed[1]}{given}"
    leaf = _NOISE.sub("", leaf).strip()
    leaf = leaf if not path or path.split(".")[-1] in leaf else f"{path}: {leaf}"
    return leaf if len(leaf) <= _LONGEST else leaf[:_LONGEST].rsplit(" ", 1)[0] + " ..."


def known_names(parser: Any) -> list[str]:
    """Every key that a parser knows by name."""
    return list(_destinations(parser))


def _innermost(text: str) -> str:
    """What the last alternative that was meant says; that ``None`` was possible too is no help."""
    parts = [part.strip() for part in re.split(r"Errors: - | - ", text)]
    meant = [part for part in parts[1:] if not part.startswith("Expected a <class 'NoneType'>")]
    leaves = [part for part in meant if "Union subtypes" not in part]
    leaf = (leaves or meant or parts)[0]
    return re.sub(r"^(?:Parser key|key) \"?'?[\w.\-]+\"?'?: ", "", leaf)


def _near(name: str, known: Sequence[str]) -> str:
    short = {key.rpartition(".")[2]: key for key in reversed(known)}
    close = difflib.get_close_matches(name, known, n=2, cutoff=0.6)
    close += [
        short[key] for key in difflib.get_close_matches(name.rpartition(".")[2], list(short), n=2, cutoff=0.6)
    ]
    return f"; near: {', '.join(dict.fromkeys(close))}" if close else ""


def _setting_names() -> Iterator[str]:
    for codec in CODECS.values():
        yield from (field.name for field in fields(codec))  # type: ignore[arg-type]
    for settings in (Refine, Allocate, Gate):
        yield from (field.name for field in fields(settings))
    for owner in (Stage, Cascade):
        yield from inspect.signature(owner).parameters


def _class_names() -> Iterator[str]:
    yield from (codec.__name__ for codec in CODECS.values())
    yield from ("Stage", "Grokfast", "LanguageModel", "TextEncoder", "TextDataModule", "SentencesDataModule")


def _destinations(parser: Any) -> Iterator[str]:
    for action in parser._actions:
        dest = getattr(action, "dest", None)
        if dest and not dest.startswith("_") and dest not in ("help", "config"):
            yield dest
        for sub in (getattr(action, "_name_parser_map", None) or {}).values():
            yield from _destinations(sub)
