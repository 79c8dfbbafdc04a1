r"""The weights that a mask leaves: their values in 16 bits or a few, and the way back to their places.

kept values -> 16-bit floats ----------------------------> values
            \-> sign and level on a row's grid, streamed -> codes, scale, floor
mask, parts -> places and what stands there -> a weight with zeros everywhere else
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from fulgurite.codecs._sparse_grid import codes_of, fit_grid, units_of
from fulgurite.codecs.base import Encoded, restore, to_half
from fulgurite.coding import decode_symbols, encode_symbols


def check_bits(bits: int) -> None:
    """Refuse what no survivor can have.

    Raises:
        ValueError: If it is not 16 or in [1, 8].
    """
    if bits != 16 and not 1 <= bits <= 8:
        raise ValueError(f"bits must be 16 or in [1, 8], got {bits}")


def store_values(values: Tensor, kept: Tensor, bits: int, costs: Tensor | None) -> dict[str, Tensor]:
    """Parts of the kept values, each rounded by itself.

    Args:
        values: ``[out, in]``.
        kept: Which of them stay, boolean of that shape.
        bits: 16, or 1 to 8.
        costs: What an error in each column costs, ``[in]``; all alike by default.
    """
    if bits == 16:
        return {"values": to_half(values[kept])}
    scale, floor = fit_grid(values, kept, bits, costs)
    return store_codes(codes_of(values, scale, floor, bits), kept, bits, scale, floor)


def store_codes(codes: Tensor, kept: Tensor, bits: int, scale: Tensor, floor: Tensor) -> dict[str, Tensor]:
    """Parts of codes that were chosen before, ``[out, in]``, on the grid of each row."""
    stream = encode_symbols(codes[kept], 1 << bits).to(codes.device)
    return {"codes": stream, "scale": scale, "floor": floor}


def with_places(encoded: Encoded, kept: Tensor, bits: int) -> Encoded:
    """The weight with its survivors' places and unpacked codes, which ``put_back`` reads.

    Args:
        encoded: With the parts of ``store_values``.
        kept: Its mask, boolean ``[out, in]``.
        bits: As it was stored.

    Raises:
        ValueError: If the parts do not fit the mask.
    """
    rows, columns = kept.shape
    tensors = encoded.tensors
    places = kept.reshape(-1).nonzero()[:, 0]
    parts: Mapping[str, Tensor]
    if bits == 16:
        if tensors["values"].shape != places.shape:
            raise ValueError(f"the mask keeps {len(places)} values, got {list(tensors['values'].shape)}")
        parts = {"places": places, "values": tensors["values"]}
    else:
        if not tensors["scale"].shape == tensors["floor"].shape == (rows,):
            raise ValueError(f"scale and floor must have {rows} entries, one for each row")
        codes = decode_symbols(tensors["codes"], 1 << bits, len(places))
        floors = tensors["floor"][places // columns]
        parts = {"places": places, "units": units_of(codes, floors, bits), "scale": tensors["scale"]}
    return replace(encoded, tensors=parts)


def put_back(expanded: Encoded) -> Tensor:
    """The weight of ``with_places``, zero where nothing was kept; differentiable in values and scales."""
    tensors = expanded.tensors
    places = tensors["places"]
    if "values" in tensors:
        values = tensors["values"].float()
    else:
        columns = expanded.numel // len(tensors["scale"])
        values = tensors["units"] * tensors["scale"].float()[places // columns]
    flat = torch.zeros(expanded.numel, device=places.device)
    return restore(flat.scatter(0, places, values), expanded)
