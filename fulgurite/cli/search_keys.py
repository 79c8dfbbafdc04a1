"""The keys of a search, held against what the command itself takes, before any trial.

recipe -> the real parser -> all keys with their defaults -> each key of the space is one of them
recipe with a value from each end of a range -> the real parser -> no complaint
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

from callbacks.cascade import Cascade
from fulgurite.cli.lightning_cli import FulguriteCLI, Parser
from fulgurite.cli.main import UsageError
from fulgurite.cli.messages import short_message
from fulgurite.search.recipes import find_key, near_keys, with_values
from fulgurite.search.settings import SearchSettings


def check_search(settings: SearchSettings) -> None:
    """Check what would fail in each trial.

    Raises:
        UsageError: If the recipe has no such key, or a value is not one that it takes; names near keys.
    """
    recipe = yaml.safe_load(settings.recipe.read_text(encoding="utf-8"))
    if not isinstance(recipe, dict) or not (recipe.get("cascade") or {}).get("stages"):
        raise UsageError(f"{settings.recipe}: expected a recipe of fulgurite compress, with cascade.stages")
    resolved = parse_recipe(recipe, str(settings.recipe))
    for group, keys in (
        ("overrides", list(settings.overrides)),
        ("space", [dimension.key for dimension in settings.space]),
    ):
        for key in keys:
            _check_key(resolved, key, group, settings)
    first = {dimension.key: dimension.extremes()[0] for dimension in settings.space}
    base = {**settings.overrides, **first}
    parse_recipe(
        _set(recipe, base, "space"), f"{settings.recipe} with overrides and the first values of space"
    )
    for dimension in settings.space:
        for value in dimension.extremes()[1:]:
            where = f"space.{dimension.key}, value {value!r}"
            parse_recipe(_set(recipe, {**base, dimension.key: value}, where), where)


def parse_recipe(recipe: Mapping[str, Any], where: str) -> dict[str, Any]:
    """What the command makes of a recipe: all keys, with defaults; nothing is built or run.

    Raises:
        UsageError: If it is wrong; begins with ``where``.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_text(yaml.safe_dump(dict(recipe), sort_keys=False), encoding="utf-8")
        return parse_command(["--config", str(path)], where)


def parse_command(arguments: Sequence[str], where: str = "the command line") -> dict[str, Any]:
    """What ``fulgurite compress`` makes of a command line: all keys, with defaults; no network is built, nothing run.

    Raises:
        UsageError: If it is wrong; begins with ``where``.
    """
    try:
        cli = _ParseOnly(["compress", *arguments], Path(tempfile.gettempdir()) / f"fulgurite-{os.getpid()}")
        _build_cascade(cli.resolved)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error
    return cli.resolved


def _build_cascade(resolved: Mapping[str, Any]) -> None:
    """Build the stages, which costs nothing: they say which of their settings are out of range."""
    parser = Parser()
    parser.add_lightning_class_args(Cascade, "cascade")
    build = getattr(parser, "instantiate", parser.instantiate_classes)  # the name before jsonargparse 4.49
    try:
        build(parser.parse_object({"cascade": deepcopy(resolved["cascade"])}))  # it changes what it is given
    except (ValueError, TypeError) as error:
        raise UsageError(short_message(str(error))) from error


class _ParseOnly(FulguriteCLI):
    """The command up to where it would build something."""

    resolved: dict[str, Any]

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        return {"compress": {"model", "datamodule"}}

    def _set_seed(self) -> None:
        pass

    def instantiate_classes(self) -> None:
        self._dump_config()
        self.resolved = dict(self.config_dump)

    def _run_subcommand(self, subcommand: str) -> None:
        pass


def _check_key(resolved: Mapping[str, Any], key: str, group: str, settings: SearchSettings) -> None:
    if find_key(resolved, key) is False:
        near = near_keys(resolved, key)
        hint = f"; near: {', '.join(near)}" if near else ""
        raise UsageError(f"{group}: {settings.recipe} has no key {key}{hint}")


def _set(recipe: Mapping[str, Any], values: Mapping[str, Any], where: str) -> dict[str, Any]:
    try:
        return with_values(recipe, values)
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from error
