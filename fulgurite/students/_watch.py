"""Hooks that score the parts of a network while it runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from fulgurite.students.families import Family, head_width, norm_names

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TINY = 1e-12  # a norm's input of zeros stays zeros; a trained network has none


class Watch:
    """Sums of scores over the tokens of all batches; a context in which the hooks are on.

    Args:
        network: Of the family.
        family: Names of its modules.
        gradients: Whether to score ``|gradient * value|``, seen in a backward pass, or ``|value|``.
    """

    def __init__(self, network: PreTrainedModel, family: Family, *, gradients: bool) -> None:
        self._network = network
        self._family = family
        self._gradients = gradients
        self._heads = int(network.config.num_attention_heads)
        self._width = head_width(network.config)
        self._mask: Tensor | None = None
        self._sums: dict[tuple[str, int], Tensor] = {}
        self._tokens: dict[tuple[str, int], int] = defaultdict(int)
        self._handles: list[Any] = []

    def __enter__(self) -> Self:
        embeddings: Any = self._network.get_input_embeddings()
        blocks: Any = self._network.get_submodule(self._family.blocks)
        self._handles.append(self._network.register_forward_pre_hook(self._see_mask, with_kwargs=True))
        if self._gradients:
            self._handles.append(embeddings.register_forward_hook(_start_graph))
        for index, block in enumerate(blocks):
            self._handles += [
                block.register_forward_hook(self._see_block(index), with_kwargs=True),
                block.get_submodule(self._family.query).register_forward_hook(self._see_query(index)),
                block.get_submodule(self._family.attention_output).register_forward_pre_hook(
                    self._see_context(index)
                ),
                block.get_submodule(self._family.mlp_output).register_forward_pre_hook(
                    self._see_neurons(index)
                ),
            ]
        for index, name in enumerate(norm_names(self._family, len(blocks))):
            norm = self._network.get_submodule(name)
            self._handles.append(norm.register_forward_hook(self._see_norm(index)))
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def scores(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Means over tokens, float32 of the shape on the CPU; 0 for what the loss does not depend on."""
        scores = torch.zeros(shape)
        for (kind, number), summed in self._sums.items():
            if kind != name:
                continue
            mean = summed.cpu() / self._tokens[kind, number]
            if name != "hidden":
                scores[number] = mean
            else:
                # sizes differ from norm to norm by their weights alone; Taylor terms are all of one loss
                scores += mean if self._gradients else mean / mean.mean().clamp_min(_TINY)
        return scores

    def norm_moments(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Mean and mean square of each norm's normalised inputs, float32 ``[hidden]`` on the CPU."""
        names = norm_names(self._family, int(self._network.config.num_hidden_layers))
        return {
            name: (
                self._sums["norm_mean", number].cpu() / self._tokens["norm_mean", number],
                self._sums["norm_square", number].cpu() / self._tokens["norm_square", number],
            )
            for number, name in enumerate(names)
        }

    def _see_mask(self, network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        mask = kwargs.get("attention_mask")
        self._mask = mask.bool().flatten() if mask is not None and mask.dim() == 2 else None

    def _rows(self, values: Tensor) -> Tensor:
        """Tokens that count, float32 ``[n, width]``."""
        return _selected(values, self._mask)

    def _add(self, kind: str, number: int, rows: Tensor) -> None:
        """Add what each token, a row, has to say of part ``number`` of a kind."""
        summed = rows.sum(0)
        before = self._sums.get((kind, number))
        self._sums[kind, number] = summed if before is None else before + summed
        self._tokens[kind, number] += len(rows)

    def _score(self, values: Tensor, add: Callable[[Tensor], None]) -> None:
        """Give ``add`` the products of gradients and values in the backward pass, or the values now."""
        if not self._gradients:
            add(self._rows(values))
        elif values.requires_grad:
            # a loss may run the network several times, so the mask is that of now, not of the backward pass
            kept, mask = values.detach(), self._mask
            hooked: Any = values  # its annotations leave out the hook's
            hooked.register_hook(lambda gradient: add(_selected(gradient.float() * kept.float(), mask)))

    def _see_block(self, index: int) -> Callable[..., None]:
        def hook(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            before, after = self._rows(block_input(args, kwargs)), self._rows(block_output(output))
            self._add("layers", index, 1 - functional.cosine_similarity(before, after, dim=-1))

        return hook

    def _see_query(self, index: int) -> Callable[..., Tensor]:
        def hook(layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            queries = output[..., : self._heads * self._width]
            self._score(queries, lambda rows: self._add("queries", index, rows.abs()))
            # the gradient of a slice is seen only if what comes after uses that slice
            return torch.cat([queries, output[..., self._heads * self._width :]], -1)

        return hook

    def _see_context(self, index: int) -> Callable[..., None]:
        def add(rows: Tensor) -> None:
            heads = rows.view(-1, self._heads, self._width)
            self._add("heads", index, heads.sum(-1).abs() if self._gradients else heads.norm(dim=-1))
            self._add("values", index, rows.abs())

        return lambda layer, args: self._score(args[0], add)

    def _see_neurons(self, index: int) -> Callable[..., None]:
        return lambda layer, args: self._score(args[0], lambda rows: self._add("neurons", index, rows.abs()))

    def _see_norm(self, index: int) -> Callable[..., None]:
        def hook(norm: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            rows = self._rows(args[0])
            if isinstance(norm, nn.LayerNorm):  # the others, RMS norms, subtract no mean
                rows = rows - rows.mean(-1, keepdim=True)
            rows = rows * rows.square().mean(-1, keepdim=True).clamp_min(_TINY).rsqrt()
            self._add("norm_mean", index, rows)
            self._add("norm_square", index, rows.square())
            self._score(output, lambda rows: self._add("hidden", index, rows.abs()))

        return hook


def _selected(values: Tensor, mask: Tensor | None) -> Tensor:
    rows = values.detach().flatten(0, -2).float()
    return rows if mask is None else rows[mask]


def block_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The hidden states that a block gets."""
    found: Tensor = args[0] if args else kwargs["hidden_states"]
    return found


def block_output(output: Any) -> Tensor:
    """The hidden states that a block gives."""
    found: Tensor = output if isinstance(output, Tensor) else output[0]
    return found


def _start_graph(layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    """Let the graph begin here: the parameters are frozen. A copy, as no leaf may be changed in place."""
    return output.detach().requires_grad_().clone()
