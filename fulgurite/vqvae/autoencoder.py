"""One category's autoencoder: three levels, each codes what the last has left.

x - sum of the levels before -> linear + hidden layer -> tokens -> quantiser -> linear + hidden layer -> + sum

The linear parts begin as the principal axes of what is left, the hidden layers as nothing: at its start the network
is a residual product quantiser on those axes, and training goes on from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fulgurite.vqvae.gates import TokenGates
from fulgurite.vqvae.quantiser import Quantiser, QuantiserSettings

LEVELS = 3


class LevelShape(NamedTuple):
    """Codes of a row, and how many numbers each stands for; no codes: the level is not there."""

    tokens: int
    width: int


class Coded(NamedTuple):
    """What a pass gives.

    Args:
        levels: Reconstructions by the first level, the first two, ..., ``[n, features]`` each.
        codes: ``[n, tokens]`` of each level.
        loss: Commitment, mean over the numbers.
    """

    levels: list[Tensor]
    codes: list[Tensor]
    loss: Tensor


class LevelCoder(nn.Module):
    """Encoder, quantiser and decoder of one level.

    Args:
        features: Of the category.
        shape: Of the codes.
        hidden: Width of the hidden layers; 0 for none.
        settings: Of the quantiser.
        rows: Of a training step.
        gated: Whether tokens can be closed, see ``TokenGates``.
    """

    def __init__(
        self,
        features: int,
        shape: LevelShape,
        hidden: int,
        settings: QuantiserSettings,
        rows: int,
        gated: bool = False,
    ) -> None:
        super().__init__()
        self.shape = shape
        numbers = shape.tokens * shape.width
        self.encode_linear = nn.Linear(features, numbers)
        self.decode_linear = nn.Linear(numbers, features)
        self.encode_hidden = _hidden(features, hidden, numbers) if hidden else None
        self.decode_hidden = _hidden(numbers, hidden, features) if hidden else None
        self.quantiser = Quantiser(shape.tokens, shape.width, settings, rows)
        self.gates = TokenGates(shape.tokens) if gated else None

    def latents(self, left: Tensor) -> Tensor:
        """``[n, features]`` to ``[n, tokens, width]``."""
        found = self.encode_linear(left)
        if self.encode_hidden is not None:
            found = found + self.encode_hidden(left)
        shaped: Tensor = found.view(-1, *self.shape)
        return shaped

    def rebuilt(self, values: Tensor) -> Tensor:
        """``[n, tokens, width]`` to ``[n, features]``."""
        if self.gates is not None:
            gates = self.gates.drawn(len(values)) if self.training else self.gates()
            values = values * gates[..., None]
        flat = values.flatten(1)
        found: Tensor = self.decode_linear(flat)
        return found if self.decode_hidden is None else found + self.decode_hidden(flat)

    def open_tokens(self) -> Tensor:
        """Places of the tokens whose codes count."""
        if self.gates is None:
            return torch.arange(self.shape.tokens)
        return self.gates.open_places()

    def numbers_to_decode(self) -> int:
        """Floats that decoding needs; of closed tokens none."""
        share = len(self.open_tokens()) / self.shape.tokens
        decoders = [self.decode_linear] + ([] if self.decode_hidden is None else [self.decode_hidden])
        floats = sum(parameter.numel() for module in decoders for parameter in module.parameters())
        book = self.quantiser.numbers_to_decode()
        # of a decoder only the columns of open tokens are needed, and these are nearly all of it
        return round(share * (floats + (book if self.quantiser.settings.kind == "ema" else 0))) + (
            0 if self.quantiser.settings.kind == "ema" else book
        )


class CategoryVqvae(nn.Module):
    """The levels of one category.

    Args:
        features: Of the category.
        shapes: Of each level.
        hidden: Width of the hidden layers.
        settings: Of the quantisers.
        rows: Of a training step.
        gated: Whether tokens can be closed.

    Raises:
        ValueError: If no level has a code.
    """

    def __init__(
        self,
        features: int,
        shapes: Sequence[LevelShape],
        hidden: int,
        settings: QuantiserSettings,
        rows: int = 1024,
        gated: bool = False,
    ) -> None:
        super().__init__()
        self.features, self.settings, self.hidden, self.gated = features, settings, hidden, gated
        self.shapes = [LevelShape(*shape) for shape in shapes]
        if not any(shape.tokens for shape in self.shapes):
            raise ValueError("expected a level with at least one code, found none")
        self.levels = nn.ModuleDict(
            {
                str(level): LevelCoder(features, shape, hidden, settings, rows, gated)
                for level, shape in enumerate(self.shapes)
                if shape.tokens
            }
        )

    def coders(self) -> list[LevelCoder]:
        """The levels that are there, the coarse one first."""
        return list(self.levels.values())  # type: ignore[arg-type]

    def forward(self, rows: Tensor) -> Coded:
        """Code ``[n, features]``; in training mode with gradients through the codes."""
        total = torch.zeros_like(rows)
        found = Coded([], [], rows.new_zeros(()))
        loss = found.loss
        for coder in self.coders():
            # a level is not trained to leave what suits the next: prefixes of the levels stay of use
            quantised = coder.quantiser(coder.latents(rows - total.detach()))
            total = total + coder.rebuilt(quantised.values)
            found.levels.append(total)
            found.codes.append(quantised.codes)
            loss = loss + quantised.loss
        return found._replace(loss=loss)

    @torch.no_grad()
    def encode(self, rows: Tensor) -> Tensor:
        """Codes of the open tokens of all levels, ``[n, tokens]``."""
        total = torch.zeros_like(rows)
        found = []
        for coder in self.coders():
            codes = coder.quantiser.nearest(coder.latents(rows - total))
            total = total + coder.rebuilt(coder.quantiser.values_of(codes))
            found.append(codes[:, coder.open_tokens().to(codes.device)])
        return torch.cat(found, dim=1)

    @torch.no_grad()
    def decode(self, codes: Tensor, levels: int | None = None) -> Tensor:
        """Rows ``[n, features]`` of codes ``[n, tokens]``, by the first levels or all.

        Raises:
            ValueError: If there are other codes than this network makes.
        """
        if codes.dim() != 2 or codes.shape[1] != self.tokens:
            raise ValueError(f"expected codes [rows, {self.tokens}], got {list(codes.shape)}")
        total = torch.zeros(len(codes), self.features, device=codes.device)
        start = 0
        for coder in self.coders()[:levels]:
            places = coder.open_tokens().to(codes.device)
            whole = codes.new_zeros(len(codes), coder.shape.tokens)  # closed tokens are multiplied by 0
            whole[:, places] = codes[:, start : start + len(places)]
            start += len(places)
            total = total + coder.rebuilt(coder.quantiser.values_of(whole))
        return total

    @property
    def tokens(self) -> int:
        """Codes of a row."""
        return sum(len(coder.open_tokens()) for coder in self.coders())

    def tokens_by_level(self) -> list[int]:
        """The same for each level, those without a code too."""
        found = [0] * len(self.shapes)
        for level, coder in self.levels.items():
            found[int(level)] = len(coder.open_tokens())  # type: ignore[operator]
        return found

    def numbers_to_decode(self) -> int:
        """Floats that decoding needs."""
        return sum(coder.numbers_to_decode() for coder in self.coders())


def _hidden(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    last = nn.Linear(hidden, outputs)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), last)
