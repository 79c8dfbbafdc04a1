"""A network's embedding and head with the rows of some tokens only.

old id of each row -> input embedding, head, head's bias: rows taken -> ids in the configurations
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ID_ENDINGS = ("_token_id", "_token_ids")
_ID_LISTS = ("suppress_tokens", "begin_suppress_tokens")
# lists of lists of ids: what is not to be generated is left out once a part of it cannot be
_ID_SEQUENCES = ("bad_words_ids",)


def shrink_embeddings(network: PreTrainedModel, old_ids: Tensor) -> None:
    """Take the rows of the kept tokens, in place; weights that are tied stay tied.

    Input embedding, output head and its bias become new, smaller parameters, so an optimizer must be made
    afterwards. Ids in ``config`` and ``generation_config`` are changed too; one whose token is gone becomes
    ``None``.

    Args:
        network: Any of transformers with one vocabulary.
        old_ids: Old id of each new one, integers ``[n]``; see ``shrink_tokenizer``.

    Raises:
        ValueError: If an id is out of range or comes twice, if a further embedding has a row for each token, or
            positions are counted from the padding's id and that would change. The network is then unchanged.
    """
    embedding = _embedding(network)
    rows = embedding.num_embeddings
    if old_ids.dim() != 1 or old_ids.is_floating_point() or old_ids.dtype == torch.bool or not len(old_ids):
        raise ValueError(f"old_ids must be integers [n], n from 1, got {old_ids.dtype} {list(old_ids.shape)}")
    if int(old_ids.min()) < 0 or int(old_ids.max()) >= rows:
        raise ValueError(
            f"old_ids must be in [0, {rows}), the rows of the input embedding, "
            f"got {int(old_ids.min())} to {int(old_ids.max())}"
        )
    new_ids = {old: new for new, old in enumerate(old_ids.tolist())}
    if len(new_ids) < len(old_ids):
        raise ValueError(f"old_ids must have each id once, got {len(old_ids) - len(new_ids)} again")
    head = cast(Any, network).get_output_embeddings()  # without annotations
    tables = _tables(network, embedding, head, rows)
    _check_rest(network, embedding, tables, new_ids)
    _take_rows(network, tables, old_ids)
    for module in network.modules():
        _tell_module(module, new_ids, rows)
    for config in _configs(network):
        _tell_config(config, new_ids, rows)


def _embedding(network: PreTrainedModel) -> nn.Embedding:
    embedding = network.get_input_embeddings()
    if not isinstance(embedding, nn.Embedding):
        raise ValueError(
            f"{type(network).__name__}: expected an nn.Embedding of tokens, found {type(embedding).__name__}"
        )
    return embedding


def _tables(network: nn.Module, embedding: nn.Embedding, head: nn.Module | None, rows: int) -> set[int]:
    """Identities of the tensors that have a row, or an entry, for each token."""
    tables = {id(embedding.weight)}
    owners: list[nn.Module] = []
    if head is not None:
        owners = [module for module in network.modules() if any(child is head for child in module.children())]
        owners = [head, *(module for module in owners if module is not network)]
        weight = getattr(head, "weight", None)
        tables |= {id(weight)} if isinstance(weight, Tensor) and weight.shape[0] == rows else set()
    # BERT's bias belongs to the module around its head, BART's is a buffer [1, rows] of the network
    biases = [(owner, "bias") for owner in owners] + [(network, "final_logits_bias")]
    for owner, name in biases:
        bias = getattr(owner, name, None)
        if isinstance(bias, Tensor) and bias.shape[-1] == rows:
            tables.add(id(bias))
    return tables


def _check_rest(
    network: nn.Module, embedding: nn.Embedding, tables: set[int], new_ids: dict[int, int]
) -> None:
    """Refuse what would go wrong silently."""
    config = getattr(network, "config", None)
    padding = getattr(config, "pad_token_id", None)
    moved = isinstance(padding, int) and new_ids.get(padding) != padding
    positions = getattr(config, "max_position_embeddings", None)
    for name, module in network.named_modules():
        if not isinstance(module, nn.Embedding) or id(module.weight) in tables:
            continue
        if "position" in name.rpartition(".")[2]:
            if moved and module.padding_idx is not None and module.padding_idx == padding:
                raise ValueError(
                    f"{name}: positions are counted from the padding's id, which must stay {padding}, "
                    f"got {new_ids.get(padding)} for it"
                )
        elif module.num_embeddings == embedding.num_embeddings != positions:
            raise ValueError(
                f"{name}: expected one embedding of tokens, found a second with {module.num_embeddings} rows"
            )


def _take_rows(network: nn.Module, tables: set[int], old_ids: Tensor) -> None:
    replaced: dict[int, nn.Parameter] = {}
    for module in network.modules():
        for name, parameter in list(module.named_parameters(recurse=False, remove_duplicate=False)):
            if id(parameter) not in tables:
                continue
            if id(parameter) not in replaced:
                taken = parameter.detach().index_select(0, old_ids.to(parameter.device))
                replaced[id(parameter)] = nn.Parameter(taken, parameter.requires_grad)
            setattr(module, name, replaced[id(parameter)])
            _tell_layer(module, len(old_ids))
        for name, buffer in list(module.named_buffers(recurse=False, remove_duplicate=False)):
            if id(buffer) in tables:
                setattr(module, name, buffer.index_select(-1, old_ids.to(buffer.device)))


def _tell_layer(module: nn.Module, size: int) -> None:
    if isinstance(module, nn.Embedding):
        module.num_embeddings = size
    elif isinstance(module, nn.Linear):
        module.out_features = size


def _tell_module(module: nn.Module, new_ids: dict[int, int], rows: int) -> None:
    """Change the size and the ids that a module took from its configuration."""
    if getattr(module, "vocab_size", None) == rows:
        setattr(module, "vocab_size", len(new_ids))  # noqa: B010  (a module's attributes are tensors to mypy)
    if isinstance(module, nn.Embedding) and module.num_embeddings != len(new_ids):
        return  # of positions, which has a padding of its own
    for name, value in list(vars(module).items()):
        if name == "padding_idx" or name.endswith(_ID_ENDINGS):
            setattr(module, name, _new(value, new_ids))


def _tell_config(config: Any, new_ids: dict[int, int], rows: int) -> None:
    if getattr(config, "vocab_size", None) == rows:
        config.vocab_size = len(new_ids)
    for name, value in list(vars(config).items()):
        if name.endswith(_ID_ENDINGS) or name in _ID_LISTS:
            setattr(config, name, _new(value, new_ids))
        elif name in _ID_SEQUENCES and value is not None:
            whole = [sequence for sequence in value if all(token in new_ids for token in sequence)]
            setattr(config, name, [_new(sequence, new_ids) for sequence in whole])


def _configs(network: nn.Module) -> list[Any]:
    """Configurations of the network and its parts, each once, and the one for generation."""
    found = {
        id(config): config for module in network.modules() if (config := getattr(module, "config", None))
    }
    generation = getattr(network, "generation_config", None)
    return [*found.values(), *([generation] if generation is not None else [])]


def _new(value: Any, new_ids: dict[int, int]) -> Any:
    """An id's new number, a list's new numbers; what is gone becomes ``None`` or leaves the list."""
    if isinstance(value, bool) or not isinstance(value, int | list | tuple):
        return value
    if isinstance(value, int):
        return new_ids.get(value) if value >= 0 else value  # some say -1 for none
    return [new_ids[token] for token in value if token in new_ids]
