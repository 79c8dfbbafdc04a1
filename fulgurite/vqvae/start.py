"""An autoencoder whose sizes and start follow the data.

sample -> principal axes of what is left -> as many as the level's bits reach (water-filling) -> shared out to tokens
       so that all have about the same variance -> k-means -> what is left -> next level

References: reverse water-filling: Cover and Thomas, Elements of Information Theory, 2nd edition, theorem 10.3.3; axes
shared out so that products of variances are alike: Ge et al., "Optimized Product Quantization", 2013, section 3.1,
https://doi.org/10.1109/CVPR.2013.379.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fulgurite.vqvae.autoencoder import CategoryVqvae, LevelCoder, LevelShape
from fulgurite.vqvae.quantiser import QuantiserSettings

_FLOOR = 1e-9  # of the largest variance


def hidden_width(features: int, wanted: int | None) -> int:
    """Width of the hidden layers: what was asked for, or half the features, at most 64."""
    return min(64, max(4, features // 2)) if wanted is None else wanted


def start_category(
    sample: Tensor,
    tokens: Sequence[int],
    settings: QuantiserSettings,
    *,
    hidden: int | None = None,
    rows: int = 1024,
    gated: bool = False,
) -> CategoryVqvae:
    """Build the autoencoder of one category.

    Args:
        sample: Standardised train rows, ``[n, features]``.
        tokens: Codes of a row in each level; more than features are cut to these.
        settings: Of the quantisers.
        hidden: Width of the hidden layers; by the features where not given.
        rows: Of a training step.
        gated: Whether tokens can be closed.

    Raises:
        ValueError: If no level has a code, or the sample has fewer rows than a codebook has codes.
    """
    if len(sample) < settings.size:
        raise ValueError(
            f"expected at least as many train rows as codes, got {len(sample)} rows for {settings.size} codes"
        )
    features = sample.shape[1]
    wanted = [min(count, features) for count in tokens]
    if not any(wanted):
        raise ValueError(f"the ratios leave no code for a category of {features} features")
    left = sample.clone()
    shapes: list[LevelShape] = []
    coders: list[LevelCoder] = []
    width = hidden_width(features, hidden)
    for count in wanted:
        if not count:
            shapes.append(LevelShape(0, 0))
            continue
        variances, axes = _principal(left)
        reached = _reached(variances, count * settings.bits)
        shape = LevelShape(count, max(1, math.ceil(reached / count)))
        coder = LevelCoder(features, shape, width, settings, rows, gated)
        _put_axes(coder, axes, variances, left.mean(0), reached)
        with torch.no_grad():
            latents = coder.latents(left)
            coder.quantiser.start(latents)
            codes = coder.quantiser.nearest(latents)
            left -= coder.rebuilt(coder.quantiser.values_of(codes))
        shapes.append(shape)
        coders.append(coder)
    network = CategoryVqvae(features, shapes, width, settings, rows, gated)
    for ours, started in zip(network.coders(), coders, strict=True):
        ours.load_state_dict(started.state_dict())
    return network


def _principal(left: Tensor) -> tuple[Tensor, Tensor]:
    """Variances, the largest first, and axes in columns."""
    centred = (left - left.mean(0)).double()
    values, axes = torch.linalg.eigh(centred.T @ centred / len(left))
    return values.flip(0).clamp_min(0), axes.flip(1)


def _reached(variances: Tensor, bits: float) -> int:
    """How many axes get a share of the bits when these are spent where they save most."""
    usable = variances[variances > _FLOOR * variances[0].clamp_min(1e-300)].double().log2()
    best = 1
    for count in range(1, len(usable) + 1):
        # with `count` axes the water stands at mean(log2 v) - 2 bits / count; the last must stick out
        if usable[count - 1] > usable[:count].mean() - 2 * bits / count:
            best = count
    return best


def _put_axes(coder: LevelCoder, axes: Tensor, variances: Tensor, mean: Tensor, reached: int) -> None:
    """Encoder and decoder as projections onto the axes, each token with its share of them."""
    tokens, width = coder.shape
    bins: list[list[int]] = [[] for _ in range(tokens)]
    sums = [0.0] * tokens
    logs = variances.clamp_min(_FLOOR * float(variances[0]) or 1e-300).log2()
    base = float(logs[reached - 1])
    for axis in range(reached):
        open_bins = [place for place in range(tokens) if len(bins[place]) < width]
        place = min(open_bins, key=lambda one: (sums[one], len(bins[one])))
        bins[place].append(axis)
        sums[place] += float(logs[axis]) - base + 1e-3
    with torch.no_grad():
        encode, decode = coder.encode_linear, coder.decode_linear
        encode.weight.zero_()
        decode.weight.zero_()
        for place, chosen in enumerate(bins):
            for number, axis in enumerate(chosen):
                row = place * width + number
                size = float(variances[axis].sqrt().clamp_min(1e-9)) if coder.quantiser.whitens else 1.0
                encode.weight[row] = axes[:, axis].float() / size
                decode.weight[:, row] = axes[:, axis].float() * size
        encode.bias.copy_(-(encode.weight @ mean))
        decode.bias.copy_(mean)
