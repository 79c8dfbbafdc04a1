"""Decide what each weight gets, and correct it until the bytes on disk are right.

curves, slopes -> search -> Decision 0 -> encode -> bytes on disk -> within the limit? -> final
                                ^----- a few weights at other rates, or a new search <- no

A foreseen size is off by a little: curves are measured on rows, and streams are as long as they come out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from callbacks.stages.allocating import Allocate, Choice, Decision
from callbacks.stages.curves import Curves
from fulgurite.allocation import Allocation, Candidate, Curve, Target, allocate, modelled, settle
from fulgurite.codecs import Codec, Encoded

LEAST = 0.99
"""Of a limit in bytes: where codecs have any rate, at least so much of it is used."""

_AIM = 0.996  # of the limit: what is foreseen is off by about as much either way
_FEW = 0.1  # of its bytes that a weight takes of a correction where it can be the only one
_MARGIN = 0.002  # of the limit, more with each new search: what came out too large may do so again
_MOST_ROUNDS = 8
_SHARINGS = 3  # of a change among all weights


class Fitting:
    """The search over a stage's curves, and what follows from the bytes that came of it.

    Args:
        settings: The recipe's.
        ladders: Candidates of each weight.
        measured: Their curves.
        unit: Nats per unit of the metric, for where no effect on the network could be told from noise; ``None``
            where the metric is not in such units.

    Raises:
        ValueError: If the limit is a loss and nothing says what an error costs.
    """

    def __init__(
        self,
        settings: Allocate,
        ladders: Mapping[str, Sequence[Codec]],
        measured: Curves,
        unit: float | None = None,
    ) -> None:
        self._settings, self._ladders = settings, ladders
        curves = list(measured.curves)
        target = settings.target()
        self._facts: dict[str, object] = {
            "strategy": settings.strategy,
            "budget": target.num_bytes,
            "bits_per_weight": target.bits_per_weight,
            "max_loss": target.max_loss,
        }
        self._in_nats = False
        if settings.strategy == "slope":
            slopes = settle(measured.effects, 1.0 if unit is None else unit)
            self._in_nats = slopes.measured or unit is not None
            if settings.max_loss is not None and not self._in_nats:
                raise ValueError(
                    "allocate.max_loss cannot be met: the effect of no weight stands out of the noise; "
                    f"give more than {settings.probe_windows} allocate.probe_windows, or another limit"
                )
            curves = [replace(curve, slope=slopes.values[curve.name]) for curve in curves]
            self._facts |= {"slopes_measured": slopes.measured, "slopes_unseen": list(slopes.unseen)}
        self._curves = modelled(curves, settings.strategy, measured.statistics)
        self._numel = {curve.name: curve.numel for curve in curves}

    def first(self, reserved: Mapping[str, int]) -> Decision:
        """The search over what was measured.

        Args:
            reserved: Bytes beside the stage's weights, as they are estimated, by what they are spent on.

        Raises:
            ValueError: If the limit cannot be reached; says the least there is, and what holds it.
        """
        target, limit = self._settings.target(), self._limit()
        found = allocate(self._curves, target, reserved)
        aim = 0 if limit is None else math.floor(_AIM * limit)
        if limit is not None and any(rate is not None for rate, _ in self._asked(found).values()):
            least = sum(curve.measured_hull()[0].num_bytes for curve in self._curves)
            aim = max(aim, least + self._beside(reserved))
            found = allocate(self._curves, self._bytes(aim, reserved), reserved)
        return self._decision(found, 0)

    def again(self, decision: Decision, reserved: Mapping[str, int]) -> Decision:
        """The search once more, with a better estimate of the bytes beside the weights.

        Where it says that the limit is out of reach, the first one stands: it is only an estimate, and the
        bytes on disk will tell.
        """
        try:
            return self.first(reserved)
        except ValueError:
            return decision

    def corrected(
        self, decision: Decision, sizes: Mapping[str, int], reserved: Mapping[str, int]
    ) -> Decision:
        """The decision to go on with, after its weights were encoded: final where it stands.

        Args:
            decision: What was encoded.
            sizes: Bytes of each weight as encoded.
            reserved: Bytes beside them, as they are now.

        Raises:
            ValueError: If the limit cannot be met.
        """
        limit = self._limit()
        whole = sum(sizes.values()) + self._beside(reserved)
        if limit is None or LEAST * limit <= whole <= limit:
            return replace(decision, final=True)
        if decision.round < _MOST_ROUNDS:
            moved = self._moved(decision, sizes, math.floor((1 + LEAST) / 2 * limit) - whole)
            if moved is not None:
                return moved
        if whole <= limit:  # rates come in steps, or are at their highest
            return replace(decision, final=True)
        if decision.round >= _MOST_ROUNDS:
            raise ValueError(
                f"a limit of {limit:,} bytes is not met after {decision.round} corrections: {whole:,} bytes"
            )
        curves, aim = self._resized(decision, sizes), math.floor((1 - _MARGIN * (decision.round + 1)) * limit)
        try:
            return self._decision(allocate(curves, self._bytes(aim, reserved), reserved), decision.round + 1)
        except ValueError:
            # all weights at their fewest bytes are many of one kind, and take a shorter manifest
            least = self._least(decision.round + 1)
            if least.choices != decision.choices:
                return least
        found = allocate(curves, self._bytes(limit, reserved), reserved)
        return self._decision(found, decision.round + 1)

    def _least(self, number: int) -> Decision:
        """Every weight at its fewest bytes."""
        fewest = [replace(curve, candidates=(curve.measured_hull()[0],)) for curve in self._curves]
        return self._decision(allocate(fewest, Target(num_bytes=sum(self._numel.values()) * 4 + 1)), number)

    def _limit(self) -> int | None:
        """Bytes at most: of the artefact, or of the stage's weights where the limit is in bits per weight."""
        target = self._settings.target()
        if target.bits_per_weight is not None:
            return math.floor(target.bits_per_weight * sum(self._numel.values()) / 8)
        return target.num_bytes

    def _beside(self, reserved: Mapping[str, int]) -> int:
        """Bytes beside the stage's weights that count towards the limit."""
        return sum(reserved.values()) if self._settings.target().num_bytes is not None else 0

    def _bytes(self, limit: int, reserved: Mapping[str, int]) -> Target:
        """A limit in bytes, reserve included."""
        return Target(num_bytes=limit - self._beside(reserved) + sum(reserved.values()))

    def _decision(self, found: Allocation[Codec], number: int) -> Decision:
        asked = self._asked(found)
        choices = {
            name: Choice(
                candidate=asked[name][1],
                rate=asked[name][0],
                bits=choice.bits_per_weight,
                slope=choice.curve.slope if self._in_nats else None,
            )
            for name, choice in found.choices.items()
        }
        facts = self._facts | {
            "predicted_loss": found.loss if self._in_nats else None,
            "loss_per_byte": found.multiplier if self._in_nats else None,
        }
        return Decision(choices, facts, number)

    def _asked(self, found: Allocation[Codec]) -> dict[str, tuple[float | None, int]]:
        """The rate to ask for, and the place in the ladder, of each weight's codec."""
        asked: dict[str, tuple[float | None, int]] = {}
        for name, choice in found.choices.items():
            codec, ladder, rate = choice.candidate.codec, self._ladders[name], choice.bits_per_weight
            if codec in ladder:
                asked[name] = (None, ladder.index(codec))
            else:
                place = next(index for index, entry in enumerate(ladder) if entry.at_rate(rate) == codec)
                asked[name] = (rate, place)
        return asked

    def _moved(self, decision: Decision, sizes: Mapping[str, int], change: int) -> Decision | None:
        """Another rate for the smallest weight that can take the change alone, or a little of it for all.

        A small weight is encoded anew in no time; that its rate is then a little off costs next to nothing.
        A large change is shared: the same step in bits for all is what another multiplier would give.
        """
        rooms = {
            name: room for name in decision.choices if (room := self._room(decision, name, sizes, change)) > 0
        }
        alone = [name for name in rooms if min(rooms[name], _FEW * sizes[name]) >= abs(change)]
        parts: dict[str, int] = {}
        if alone:
            parts[min(alone, key=lambda name: sizes[name])] = abs(change)
        left = abs(change)
        for _ in range(_SHARINGS if not alone else 0):  # what some have no room for goes to the others
            open_rooms = {name: rooms[name] - parts.get(name, 0) for name in rooms}
            total = sum(self._numel[name] for name, room in open_rooms.items() if room > 0)
            for name, room in open_rooms.items():
                part = min(room, left * self._numel[name] // max(1, total)) if room > 0 else 0
                parts[name] = parts.get(name, 0) + part
            left = abs(change) - sum(parts.values())
        choices = dict(decision.choices)
        for name, part in parts.items():
            if part > 0:
                more = int(math.copysign(part, change))
                rate = _rate(choices[name]) + 8 * more / self._numel[name]
                bits = 8 * (sizes[name] + more) / self._numel[name]
                choices[name] = replace(choices[name], rate=rate, bits=bits)
        if choices == decision.choices:
            return None
        return replace(decision, choices=choices, round=decision.round + 1)

    def _room(self, decision: Decision, name: str, sizes: Mapping[str, int], change: int) -> int:
        """Bytes by which a weight may grow or shrink within the rates that were measured."""
        choice, ladder = decision.choices[name], self._ladders[name]
        rate, curve = _rate(choice), next(one for one in self._curves if one.name == name)
        asked = ladder[choice.candidate].at_rate(rate)
        if asked is None:
            return 0
        known = [one.num_bytes for one in curve.candidates if one.codec.at_rate(rate) == asked]
        bytes_now = rate * self._numel[name] / 8  # by the curve: sizes are off by as much at the ends
        return int(max(known) - bytes_now) if change > 0 else int(bytes_now - min(known))

    def _resized(self, decision: Decision, sizes: Mapping[str, int]) -> list[Curve[Codec]]:
        """The curves with their bytes as they came out, where they were foreseen too small."""
        resized = []
        for curve in self._curves:
            foreseen = decision.choices[curve.name].bits * curve.numel / 8
            factor = max(1.0, sizes[curve.name] / max(1.0, foreseen))
            candidates = tuple(
                Candidate(one.codec, math.ceil(one.num_bytes * factor), one.distortion)
                for one in curve.candidates
            )
            resized.append(replace(curve, candidates=candidates))
        return resized


def _rate(choice: Choice) -> float:
    """Bits per weight that were asked for."""
    return choice.bits if choice.rate is None else choice.rate


def without_growth(
    before: Mapping[str, Encoded], after: Mapping[str, Encoded], excess: int
) -> tuple[dict[str, Encoded], list[str]]:
    """Refined weights that take back ``excess`` bytes: those that grew the most are as they were before.

    Trained scales are harder to code than those that the encoder chose, where these are alike.

    Returns:
        All entries, and the names of those that are not refined; all that grew, if that is not enough.
    """
    growth = {name: after[name].num_bytes - entry.num_bytes for name, entry in before.items()}
    undone: list[str] = []
    for name in sorted(growth, key=lambda name: -growth[name]):
        if excess <= 0 or growth[name] <= 0:
            break
        excess -= growth[name]
        undone.append(name)
    return {name: before[name] if name in undone else entry for name, entry in after.items()}, undone
