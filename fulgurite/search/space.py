"""A key of a recipe and the values that it may take.

{type: float, low: 1, high: 4, step: 0.5} -> Dimension -> suggest(trial) | grid() | extremes()
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import optuna

Kind = Literal["float", "int", "categorical", "bool"]
Value = float | int | bool | str | None

_KEYS = {
    "float": {"low", "high", "step", "log"},
    "int": {"low", "high", "step", "log"},
    "categorical": {"choices"},
    "bool": set[str](),
}
_GRID_MOST = 10_000


@dataclass(frozen=True)
class Dimension:
    """One axis of a search space.

    Args:
        key: Of the recipe, dotted: ``cascade.stages.ecq3.allocate.bits_per_weight``; without ``init_args``.
        kind: What its values are.
        low: The least value, of numbers.
        high: The greatest, of numbers; taken too.
        step: Distance of neighbours; 1 for whole numbers by default, none for others.
        log: Whether numbers are drawn evenly in their logarithm.
        choices: Of a category.

    Raises:
        ValueError: If the range is empty or of the wrong kind.
    """

    key: str
    kind: Kind
    low: float | None = None
    high: float | None = None
    step: float | None = None
    log: bool = False
    choices: tuple[Value, ...] = ()

    def __post_init__(self) -> None:
        where = f"space.{self.key}"
        if self.kind == "categorical":
            if not self.choices or len(set(map(repr, self.choices))) != len(self.choices):
                raise ValueError(
                    f"{where}: choices must be a list of different values, got {list(self.choices)}"
                )
            for choice in self.choices:
                if choice is not None and not isinstance(choice, str | int | float | bool):
                    raise ValueError(
                        f"{where}: a choice must be a text, a number, a truth value or null, got {choice}"
                    )
        if self.kind not in ("float", "int"):
            return
        for name in ("low", "high", "step"):
            value = getattr(self, name)
            if value is None and name == "step":
                continue
            number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            if not number or (self.kind == "int" and value != int(value)):
                kind = "a whole number" if self.kind == "int" else "a number"
                raise ValueError(f"{where}: {name} must be {kind}, got {value!r}")
        assert self.low is not None
        assert self.high is not None
        if self.low > self.high:
            raise ValueError(f"{where}: low must be at most high, got {self.low:g} and {self.high:g}")
        if self.step is not None and self.step <= 0:
            raise ValueError(f"{where}: step must be above 0, got {self.step:g}")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError(
                f"{where}: log needs low above 0 and no step, got {self.low:g} and step {self.step}"
            )

    def suggest(self, trial: optuna.Trial) -> Value:
        """The value that a trial takes."""
        if self.kind == "bool":
            return bool(trial.suggest_categorical(self.key, [False, True]))
        if self.kind == "categorical":
            return trial.suggest_categorical(self.key, list(self.choices))
        low, high = self._range()
        if self.kind == "int":
            return trial.suggest_int(self.key, int(low), int(high), step=int(self.step or 1), log=self.log)
        return trial.suggest_float(self.key, low, high, step=self.step, log=self.log)

    def extremes(self) -> list[Value]:
        """The values at its ends, or all of a category."""
        if self.kind == "bool":
            return [False, True]
        if self.kind == "categorical":
            return list(self.choices)
        return [self._number(value) for value in dict.fromkeys(self._range())]

    def grid(self) -> list[Value]:
        """All of its values.

        Raises:
            ValueError: If there are endlessly many.
        """
        if self.kind in ("bool", "categorical"):
            return self.extremes()
        low, high = self._range()
        step = self.step or (1 if self.kind == "int" else None)
        if step is None or (high - low) / step > _GRID_MOST:
            raise ValueError(
                f"space.{self.key}: the grid sampler needs a step, or choices in place of a range"
            )
        count = math.floor((high - low) / step + 1e-9) + 1
        return [self._number(low + place * step) for place in range(count)]

    def _range(self) -> tuple[float, float]:
        assert self.low is not None
        assert self.high is not None
        return self.low, self.high

    def _number(self, value: float) -> Value:
        return int(value) if self.kind == "int" else float(value)


def read_space(content: Any) -> tuple[Dimension, ...]:
    """The dimensions of a search, from its YAML.

    Raises:
        ValueError: If one is no range and no choice; names its key.
    """
    if not isinstance(content, Mapping) or not content:
        raise ValueError(
            "space must map keys of the recipe to {type: ..., low: ..., high: ...} or {choices: [...]}"
        )
    return tuple(_dimension(str(key), entry) for key, entry in content.items())


def _dimension(key: str, entry: Any) -> Dimension:
    if not isinstance(entry, Mapping):
        raise ValueError(f"space.{key} must be a mapping with type, got {entry!r}")
    given = dict(entry)
    kind = given.pop("type", "categorical" if "choices" in given else None)
    if kind not in _KEYS:
        raise ValueError(f"space.{key}: type must be {', '.join(_KEYS)}, got {kind!r}")
    unknown = sorted(set(given) - _KEYS[kind])
    if unknown:
        known = ", ".join(sorted(_KEYS[kind])) or "none"
        raise ValueError(f"space.{key}: a {kind} takes {known}, got {', '.join(unknown)}")
    if "choices" in given:
        if not isinstance(given["choices"], list):
            raise ValueError(
                f"space.{key}: choices must be a list of different values, got {given['choices']!r}"
            )
        given["choices"] = tuple(given["choices"])
    if not isinstance(given.get("log", False), bool):
        raise ValueError(f"space.{key}: log must be true or false, got {given['log']!r}")
    return Dimension(key, kind, **given)
