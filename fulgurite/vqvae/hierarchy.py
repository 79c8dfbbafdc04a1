"""All categories' autoencoders side by side: rows to codes and back.

rows [n, features] -> columns of each category -> CategoryVqvae -> codes by category -> rows
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from fulgurite.vqvae.autoencoder import CategoryVqvae, Coded, LevelShape
from fulgurite.vqvae.quantiser import QuantiserSettings
from fulgurite.vqvae.start import start_category


class Hierarchy(nn.Module):
    """An autoencoder for each category.

    Args:
        categories: Columns of each category; together all columns, each once.
        networks: One for each.

    Raises:
        ValueError: If categories and columns do not fit.
    """

    def __init__(self, categories: Mapping[str, Sequence[int]], networks: Sequence[CategoryVqvae]) -> None:
        super().__init__()
        self.categories = {name: list(places) for name, places in categories.items()}
        every = sorted(place for places in self.categories.values() for place in places)
        if not every or every != list(range(len(every))):
            raise ValueError(f"categories must have each of the columns once, got {every[:8]}")
        self.num_features = len(every)
        self.networks = nn.ModuleList(networks)
        for number, places in enumerate(self.categories.values()):
            self.register_buffer(f"_places{number}", torch.tensor(places), persistent=False)

    @classmethod
    def start(
        cls,
        sample: Tensor,
        categories: Mapping[str, Sequence[int]],
        tokens: Mapping[str, Sequence[int]],
        settings: QuantiserSettings,
        *,
        hidden: int | None = None,
        rows: int = 1024,
        gated: bool = False,
    ) -> Hierarchy:
        """Build one whose sizes follow the data.

        Args:
            sample: Standardised train rows, ``[n, features]``.
            categories: Columns of each category.
            tokens: Codes of each of its levels.
            settings: Of the quantisers.
            hidden: Width of the hidden layers; by the features where not given.
            rows: Of a training step.
            gated: Whether tokens can be closed.

        Raises:
            ValueError: If a category would have no code, or rows are fewer than codes; names the category.
        """
        networks = []
        for name, places in categories.items():
            try:
                part = sample[:, list(places)]
                networks.append(
                    start_category(part, tokens[name], settings, hidden=hidden, rows=rows, gated=gated)
                )
            except ValueError as error:
                raise ValueError(f"category {name}: {error}") from error
        return cls(categories, networks)

    def parts(self) -> list[tuple[str, Tensor, CategoryVqvae]]:
        """Name, columns and network of each category."""
        names = enumerate(self.categories)
        return [(name, getattr(self, f"_places{number}"), self.networks[number]) for number, name in names]  # type: ignore[misc]

    def network_of(self, category: str) -> CategoryVqvae:
        """One category's autoencoder.

        Raises:
            ValueError: If it was never seen.
        """
        for name, _, network in self.parts():
            if name == category:
                return network
        raise ValueError(
            f"category {category!r} was never seen; those that were are {', '.join(self.categories)}"
        )

    def forward(self, rows: Tensor) -> dict[str, Coded]:
        """Code ``[n, features]``, each category's columns by its network."""
        self._check(rows)
        return {name: network(rows[:, places]) for name, places, network in self.parts()}

    def encode(self, rows: Tensor) -> dict[str, Tensor]:
        """Codes ``[n, tokens]`` of each category."""
        self._check(rows)
        return {name: network.encode(rows[:, places]) for name, places, network in self.parts()}

    def decode(self, codes: Mapping[str, Tensor], levels: int | None = None) -> Tensor:
        """Rows ``[n, features]`` of codes, by the first levels or all.

        Raises:
            ValueError: If a category was never seen, or one is missing.
        """
        for name in codes:
            self.network_of(name)
        missing = [name for name in self.categories if name not in codes]
        if missing:
            raise ValueError(f"expected codes of all categories, those of {', '.join(missing)} are missing")
        count = len(next(iter(codes.values())))
        device = next(iter(codes.values())).device
        rows = torch.zeros(count, self.num_features, device=device)
        for name, places, network in self.parts():
            rows[:, places] = network.decode(codes[name], levels)
        return rows

    def _check(self, rows: Tensor) -> None:
        if rows.dim() != 2 or rows.shape[1] != self.num_features:
            raise ValueError(f"expected rows of {self.num_features} features, got {list(rows.shape)}")

    def tokens_by_level(self) -> dict[str, list[int]]:
        """Codes of a row, by category and level."""
        return {name: network.tokens_by_level() for name, _, network in self.parts()}

    def bits_per_row(self) -> float:
        """Of all codes where all codes of a codebook are used alike."""
        return sum(network.tokens * network.settings.bits for _, _, network in self.parts())

    def numbers_to_decode(self) -> int:
        """Floats that decoding needs: decoders and codebooks."""
        return sum(network.numbers_to_decode() for _, _, network in self.parts())

    def description(self) -> dict[str, Any]:
        """Plain values from which ``from_description`` builds a network of these shapes."""
        first: CategoryVqvae = self.networks[0]  # type: ignore[assignment]
        return {
            "categories": self.categories,
            "shapes": {name: [list(shape) for shape in network.shapes] for name, _, network in self.parts()},
            "hidden": {name: network.hidden for name, _, network in self.parts()},
            "quantiser": asdict(first.settings),
            "gated": first.gated,
        }

    @classmethod
    def from_description(cls, known: Mapping[str, Any], rows: int = 1024) -> Hierarchy:
        """A network of the described shapes, its weights to be loaded."""
        settings = QuantiserSettings(**known["quantiser"])
        networks = [
            CategoryVqvae(
                len(places),
                [LevelShape(*shape) for shape in known["shapes"][name]],
                known["hidden"][name],
                settings,
                rows,
                known["gated"],
            )
            for name, places in known["categories"].items()
        ]
        return cls(known["categories"], networks)
