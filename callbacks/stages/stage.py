"""A stage: one step of a cascade, from weights to fewer bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import fields, replace
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Literal

from lightning.pytorch import Callback
from torch import Tensor

from callbacks.stages.advice import Advice
from callbacks.stages.allocating import Allocate
from callbacks.stages.refine import Refine
from callbacks.stages.selection import select_weights
from fulgurite.calibration import MetricKind
from fulgurite.codecs import Codec, UniformCodec

Aim = Literal["bytes", "quality", "change"]
"""What a stage is for: fewer bytes, better scores in as many, or another network of the same size."""

PROTECTED = UniformCodec(bits=8, group_size=64, entropy=True)
"""What a retry gives the weights that a severe loss is blamed on."""


class Stage(Callback):
    """Code the selected weights of a network with one codec, then refine.

    Args:
        codec: How the selected weights are coded.
        select: Glob patterns over parameter names; the default is every matrix.
        exclude: Glob patterns to leave out of it.
        overrides: Other codecs for some of the selected weights: pattern to codec, the first match counts.
        source: Code the weights of the ``reference``, or what the ``previous`` accepted stage made of them.
        metric: In what codecs that use one measure a weight's error: ``identity``, each weight alike; ``input``,
            what it adds to the layer's own outputs; ``kl``, what it does to the network's.
        allocate: Give each weight its own bits within one limit; by default all have the codec as it is.
        refine: Training of the continuous parts after encoding.
        min_retention: What this stage must retain of the previous one, 0 to 1; the gate's own by default.
        retries: Further tries with recommended changes after a rejection; the cascade's own by default.
    """

    aim: ClassVar[Aim] = "bytes"

    def __init__(
        self,
        codec: Codec | None = None,
        select: str | list[str] = "*",
        exclude: list[str] | None = None,
        overrides: dict[str, Codec] | None = None,
        source: Literal["reference", "previous"] = "reference",
        metric: MetricKind = "input",
        allocate: Allocate | None = None,
        refine: Refine = Refine(),  # noqa: B008 (frozen)
        min_retention: float | None = None,
        retries: int | None = None,
    ) -> None:
        if min_retention is not None and not 0 <= min_retention <= 1:
            raise ValueError(f"min_retention must be in [0, 1], got {min_retention}")
        if retries is not None and retries < 0:
            raise ValueError(f"retries must be at least 0, got {retries}")
        self.codec = codec if codec is not None else UniformCodec()
        self.select = [select] if isinstance(select, str) else list(select)
        self.exclude = list(exclude or [])
        self.overrides = dict(overrides or {})
        self.source = source
        self.metric = metric
        self.allocate = allocate
        self.refine = refine
        self.min_retention = min_retention
        self.retries = retries

    @property
    def technique(self) -> str:
        """What tables call it: the codec's name."""
        return self.codec.name

    def plan(self, weights: Mapping[str, Tensor], *, key: str, network: str) -> dict[str, Codec]:
        """The codec of each weight that this stage codes, in the network's order.

        Args:
            weights: The network's parameters by name.
            key: This stage's place in the recipe, for errors.
            network: The network's class name, for errors.

        Raises:
            ValueError: If a pattern matches nothing.
        """
        chosen = select_weights(weights, self.select, self.exclude, key=f"{key}.select", network=network)
        for pattern in self.overrides:
            select_weights(weights, [pattern], key=f"{key}.overrides", network=network)
        return {name: self._codec_of(name) for name in chosen}

    def ladders(self, plan: Mapping[str, Codec]) -> dict[str, tuple[Codec, ...]]:
        """What each weight of a plan may become: the codec itself, or what there is to allocate.

        A weight that an override names has that codec and no other.
        """
        return {
            name: (codec,)
            if self.allocate is None or self._override_of(name) is not None
            else self.allocate.ladder(codec)
            for name, codec in plan.items()
        }

    def _codec_of(self, name: str) -> Codec:
        return self._override_of(name) or self.codec

    def _override_of(self, name: str) -> Codec | None:
        for pattern, codec in self.overrides.items():
            if fnmatchcase(name, pattern):
                return codec
        return None

    def settings(self) -> dict[str, Any]:
        """The settings in plain values, for the record."""
        return {
            "codec": describe(self.codec),
            "select": self.select,
            "exclude": self.exclude,
            "overrides": {pattern: describe(codec) for pattern, codec in self.overrides.items()},
            "source": self.source,
            "metric": self.metric,
            "allocate": None if self.allocate is None else _described(self.allocate),
            "refine": {
                field.name: getattr(self.refine, field.name)
                for field in fields(Refine)
                if field.name != "grokfast"
            }
            | {"grokfast": self.refine.grokfast is not None},
        }

    def relaxed(self, advice: Advice) -> tuple[Stage, list[str]] | None:
        """This stage with what a gate's verdict recommends, and the changes in words.

        Where bits are allocated, the limit is raised, and who gets them is left to the allocation.

        Args:
            advice: What to change.

        Returns:
            ``None`` where nothing is left to change.
        """
        changes: list[str] = []
        codec, allocate = None, self.allocate
        protect, focus = advice.protect, advice.focus
        if allocate is not None:
            allocate, changed = allocate.relaxed(advice.severe)
            changes.append(changed)
            protect = focus = ()
        elif advice.everywhere and (codec := self.codec.relaxed(advice.severe)) is not None:
            changes += difference(self.codec, codec)
        finer: dict[str, Codec] = {}
        for name in focus:
            present = self._override_of(name) or codec or self.codec
            if present != PROTECTED and (better := present.relaxed(True)) is not None:
                finer[name] = better
        changes += self._told(finer, advice.focus_name)
        refined = self.refine
        if advice.longer and self.refine.steps > 0:
            refined = replace(self.refine, steps=2 * self.refine.steps)
            changes.append(f"refine.steps {self.refine.steps} -> {refined.steps}")
        fresh = [name for name in protect if self._codec_of(name) != PROTECTED]
        if fresh:
            changes.append(f"{', '.join(_short(fresh))} at {PROTECTED.bits} bits")
        if not changes:
            return None
        stage = copy(self)
        stage.codec, stage.allocate = codec or self.codec, allocate
        named = {**finer, **dict.fromkeys(fresh, PROTECTED)}
        # before the others: the first match counts
        stage.overrides = named | {key: value for key, value in self.overrides.items() if key not in named}
        stage.refine = refined
        return stage, changes

    @staticmethod
    def _told(finer: Mapping[str, Codec], group: str) -> list[str]:
        """What some weights have from now on, in words."""
        codecs = {", ".join(_settings(codec)): None for codec in finer.values()}
        return [f"{group} ({len(finer)} weights) at {' or '.join(codecs)}"] if finer else []


def describe(codec: Codec) -> dict[str, Any]:
    """A codec's name and settings."""
    values = {field.name: getattr(codec, field.name) for field in fields(codec)}  # type: ignore[arg-type]
    plain = {key: value for key, value in values.items() if isinstance(value, bool | int | float | str)}
    held = {key: describe(value) for key, value in values.items() if isinstance(value, Codec)}
    return {"name": codec.name, **plain, **held}


def _described(allocate: Allocate) -> dict[str, Any]:
    values = {field.name: getattr(allocate, field.name) for field in fields(allocate)}
    given = allocate.candidates
    return values | {"candidates": None if given is None else [describe(codec) for codec in given]}


def _settings(codec: Codec) -> list[str]:
    """The settings of a codec that a retry may change, in the recipe's words."""
    step = codec.relaxed(False) or codec.relaxed(True)
    changed = [] if step is None else [said.split(" ")[0] for said in difference(codec, step)]
    flat = _flat(describe(codec))
    return [codec.name, *(f"{key} {flat[key]}" for key in changed if key in flat)]


def difference(old: Codec, new: Codec) -> list[str]:
    """What changed between two settings, in the recipe's words."""
    before, after = (_flat(describe(codec)) for codec in (old, new))
    return [f"{key} {before.get(key)} -> {after[key]}" for key in after if after[key] != before.get(key)]


def _flat(described: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The settings of a codec and of those that it holds, such as ``inner.rate``."""
    flat: dict[str, Any] = {}
    for key, value in described.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _short(names: Sequence[str]) -> list[str]:
    return [*names[:2], f"{len(names) - 2} more"] if len(names) > 3 else list(names)
