"""Settings of an allocation, and what was decided: which codec each weight gets.

recipe -> Allocate -> a ladder of candidates for each weight -> (measured, searched) -> Decision -> allocation.json
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fulgurite.allocation import STRATEGIES, Strategy, Target, parse_bytes
from fulgurite.artifact.files import write_file
from fulgurite.codecs import Codec, Encoded, Float16Codec

_MILD, _SEVERE = 1.1, 1.25
"""What a retry multiplies bytes with."""

_LOSS_MILD, _LOSS_SEVERE = 0.75, 0.5
"""The same of a loss: at two bits a weight, a tenth of the bytes is 0.2 bits, and 2^(-2 * 0.2) is 0.76."""


@dataclass(frozen=True)
class Allocate:
    """Give each weight the bits that serve the network most, within one of three limits.

    Args:
        budget: Bytes of the whole artefact at most, the tokenizer apart: a number, or such as ``0.4MB`` or
            ``380 KiB``. Met within 1 % from below where a codec has any rate.
        bits_per_weight: Bits at most over all weights that the stage codes, those left in 16 bits included.
        max_loss: Increase of the network's loss at most, as the curves predict it, in nats per position.
        strategy: ``slope`` measures what each weight's error costs the network. The others go by the weights
            alone: ``uniform``, ``variance``, ``dimensionality``, ``information``, ``balanced``.
        candidates: What a weight may become; by default the candidates of the stage's codec, and 16 bits. A codec
            that has any rate stands for its own candidates.
        probe_windows: Windows of training data that slopes are measured on.
        sample: Weights of one matrix that its curve is measured on at most.

    Raises:
        ValueError: If not exactly one limit is given, or a number is out of range.
    """

    budget: str | int | None = None
    bits_per_weight: float | None = None
    max_loss: float | None = None
    strategy: Strategy = "slope"
    candidates: list[Codec] | None = None
    probe_windows: int = 8
    sample: int = 1 << 16

    def __post_init__(self) -> None:
        limits = ("budget", "bits_per_weight", "max_loss")
        given = [name for name in limits if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"allocate must have exactly one of {', '.join(limits)}, got {', '.join(given) or 'none'}"
            )
        if self.strategy not in STRATEGIES:
            raise ValueError(
                f"allocate.strategy must be one of {', '.join(STRATEGIES)}, got {self.strategy!r}"
            )
        if self.max_loss is not None and self.strategy != "slope":
            raise ValueError(
                f"allocate.max_loss needs the strategy slope, which measures it, got {self.strategy}"
            )
        for name in ("bits_per_weight", "max_loss", "probe_windows", "sample"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"allocate.{name} must be above 0, got {value}")
        if self.candidates is not None and not self.candidates:
            raise ValueError("allocate.candidates must hold at least one codec, got none")
        self.target()  # a budget that is none is known at once

    def target(self) -> Target:
        """The limit, as the search takes it."""
        if self.budget is not None:
            return Target(num_bytes=parse_bytes(self.budget, "allocate.budget"))
        return Target(bits_per_weight=self.bits_per_weight, max_loss=self.max_loss)

    def ladder(self, codec: Codec) -> tuple[Codec, ...]:
        """The candidates of a weight that the stage codes with ``codec``."""
        steps: list[Codec] = []
        for entry in [codec, Float16Codec()] if self.candidates is None else self.candidates:
            if entry.at_rate(2.0) is not None:
                steps += _thinned(entry.candidates())
            else:
                steps += entry.candidates() if self.candidates is None else [entry]
        return tuple(dict.fromkeys(steps))

    def relaxed(self, severe: bool) -> tuple[Allocate, str]:
        """A tenth more bytes, or a quarter after a severe loss; and the change in words."""
        factor = _SEVERE if severe else _MILD
        if self.budget is not None:
            before = parse_bytes(self.budget)
            after = int(before * factor)
            return replace(self, budget=after), f"allocate.budget {before:,} -> {after:,} bytes"
        if self.bits_per_weight is not None:
            bits = self.bits_per_weight * factor
            changed = f"allocate.bits_per_weight {self.bits_per_weight:.4g} -> {bits:.4g}"
            return replace(self, bits_per_weight=bits), changed
        assert self.max_loss is not None
        loss = self.max_loss * (_LOSS_SEVERE if severe else _LOSS_MILD)
        return replace(self, max_loss=loss), f"allocate.max_loss {self.max_loss:.4g} -> {loss:.4g}"


def _thinned(codecs: Sequence[Codec]) -> Sequence[Codec]:
    """Every second, the last always: between two rates of one codec the curve is known well enough."""
    return [*codecs[:-1:2], *codecs[-1:]]


@dataclass(frozen=True)
class Choice:
    """What one weight gets.

    Args:
        candidate: Its place in the weight's ladder.
        rate: Bits per weight to ask this codec for, where it has any rate; ``None`` for the codec as it is.
        bits: Bits per weight that were foreseen.
        slope: Nats per position for each unit of the metric; ``None`` where it was not measured.
    """

    candidate: int
    rate: float | None
    bits: float
    slope: float | None

    def codec(self, ladder: Sequence[Codec]) -> Codec:
        """The codec itself."""
        codec = ladder[self.candidate]
        if self.rate is None:
            return codec
        asked = codec.at_rate(self.rate)
        if asked is None:
            raise ValueError(f"{codec} has no rate of {self.rate}")
        return asked


@dataclass(frozen=True)
class Decision:
    """What all weights get.

    Args:
        choices: By name.
        facts: What the record tells of the search.
        round: 0 for the search itself; one more for each correction after weights were encoded.
        final: Whether the bytes on disk were found to be right.
    """

    choices: Mapping[str, Choice]
    facts: Mapping[str, Any]
    round: int = 0
    final: bool = False

    def codecs(self, ladders: Mapping[str, Sequence[Codec]]) -> dict[str, Codec]:
        """The codec of each weight."""
        return {name: choice.codec(ladders[name]) for name, choice in self.choices.items()}

    def excess(self, whole: int, coded: Mapping[str, Encoded]) -> int:
        """Bytes over the limit of an artefact of ``whole`` bytes; 0 or less within it, or if it is none in bytes."""
        if self.facts["budget"] is not None:
            return whole - int(self.facts["budget"])
        if self.facts["bits_per_weight"] is not None:
            numel = sum(entry.numel for entry in coded.values())
            limit = math.floor(float(self.facts["bits_per_weight"]) * numel / 8)
            return sum(entry.num_bytes for entry in coded.values()) - limit
        return 0

    def told(self) -> dict[str, Any]:
        """What the record says of the whole."""
        return {**self.facts, "corrections": self.round}

    def told_of(self, name: str) -> dict[str, Any]:
        """What the record says of one weight beside what became of it."""
        choice = self.choices[name]
        return {"bits_allocated": choice.bits, "slope": choice.slope}

    def save(self, path: Path) -> None:
        """Write it, all or nothing."""
        write_file(path, json.dumps(asdict(self), indent=1).encode())

    @classmethod
    def load(cls, path: Path) -> Decision | None:
        """What was saved, or ``None`` where nothing was."""
        try:
            found = json.loads(path.read_text())
        except FileNotFoundError:
            return None
        choices = {name: Choice(**choice) for name, choice in found.pop("choices").items()}
        return cls(choices, **found)
