"""Losses between what a student and its teacher make of the same batch.

    logits      KL of softened distributions        Hinton et al., 2015, https://arxiv.org/abs/1503.02531
    labels      the text's own next tokens
    hidden      states after layers, projected      Romero et al., "FitNets", https://arxiv.org/abs/1412.6550
    attentions  maps of layers                      Jiao et al., "TinyBERT", https://arxiv.org/abs/1909.10351
    values      relations of values, last layer     Wang et al., "MiniLM", https://arxiv.org/abs/2002.10957
    vectors     cosine of a text's vectors
    similarity  cosines between the texts of a batch Park et al., "Relational Knowledge Distillation", 1904.05068
    contrastive which of the teacher's vectors is it Tian et al., https://arxiv.org/abs/1910.10699

All are means over what counts and 0 (``contrastive`` and ``labels``: least) where both agree. Differs from the papers:
hidden states are compared after division by the teacher's mean square, so that one weight suits all networks; of a
teacher's heads the mean map is compared where the student has another number of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from fulgurite.distillation.outputs import TopLogits

_NEVER = -1e4
"""Logit of what is not there: its probability is 0 in float32, and its gradient is a number, as infinity's is not."""

LOSSES: dict[str, str] = {
    "logits": "logits",
    "labels": "logits",
    "hidden": "hidden",
    "attentions": "attentions",
    "values": "values",
    "vectors": "vectors",
    "similarity": "vectors",
    "contrastive": "vectors",
}
"""Each loss, and the part of ``Outputs`` that it compares."""


def logits_divergence(student: Tensor, teacher: Tensor, mask: Tensor, temperature: float = 1.0) -> Tensor:
    """``KL(teacher || student)`` a position, nats times ``temperature ** 2``.

    Args:
        student: ``[b, t, V]``.
        teacher: The same.
        mask: Positions that count, ``[b, t]``.
        temperature: Divides both.

    Raises:
        ValueError: If the two know other tokens.
    """
    if student.shape != teacher.shape:
        raise ValueError(
            f"student and teacher must share their tokens, got logits {list(student.shape)} and "
            f"{list(teacher.shape)}: distil before the vocabulary is changed, or use other losses than logits"
        )
    ours = (student.float() / temperature).log_softmax(-1)
    theirs = (teacher.float() / temperature).log_softmax(-1)
    each = functional.kl_div(ours, theirs, reduction="none", log_target=True).sum(-1)
    return _mean(each, mask) * temperature**2


def top_divergence(student: Tensor, teacher: TopLogits, mask: Tensor, temperature: float = 1.0) -> Tensor:
    """The same from the teacher's largest logits; all other tokens together count as one.

    A lower bound of the whole divergence, by the log-sum inequality, and 0 where the student agrees.

    Raises:
        ValueError: If the teacher knows tokens that the student does not.
    """
    if int(teacher.indices.max()) >= student.shape[-1]:
        raise ValueError(
            f"student and teacher must share their tokens, the teacher has token {int(teacher.indices.max())}, "
            f"the student {student.shape[-1]} tokens"
        )
    ours = (student.float() / temperature).log_softmax(-1)
    theirs = teacher.log_probability.float()
    taken = ours.gather(-1, teacher.indices.long())
    each = (theirs.exp() * (theirs - taken)).sum(-1)
    rest, our_rest = (1 - logs.exp().sum(-1) for logs in (theirs, taken))
    rest, our_rest = rest.clamp_min(1e-6), our_rest.clamp_min(1e-6)
    each = each + rest * (rest.log() - our_rest.log())
    return _mean(each, mask) * temperature**2


def label_loss(student: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
    """``-log p`` of the next token, nats a position.

    Args:
        student: ``[b, t, V]``.
        tokens: What was read, ``[b, t]``; each but the first of a row is the label of the one before.
        mask: ``[b, t]``.
    """
    logs = functional.cross_entropy(student[:, :-1].float().transpose(1, 2), tokens[:, 1:], reduction="none")
    return _mean(logs, mask[:, 1:])


def hidden_distance(student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor) -> Tensor:
    """Mean squared error of states over the teacher's mean square, mean over the pairs of layers.

    Args:
        student: Projected to the teacher's width, ``[b, t, d]`` each.
        teacher: The layers that they are compared with.
        mask: ``[b, t]``.
    """
    distances = []
    for ours, theirs in zip(student, teacher, strict=True):
        error = _mean((ours.float() - theirs.float()).square().mean(-1), mask)
        distances.append(error / _mean(theirs.float().square().mean(-1), mask).clamp_min(1e-12))
    return torch.stack(distances).mean()


def attention_transfer(student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor) -> Tensor:
    """``KL(teacher || student)`` of each position's map, nats, mean over heads and pairs of layers.

    Args:
        student: ``[b, h, t, t]`` each, rows sum to 1.
        teacher: The same; the mean over heads is compared where their numbers differ.
        mask: ``[b, t]``.
    """
    distances = []
    for ours, theirs in zip(student, teacher, strict=True):
        if ours.shape[1] != theirs.shape[1]:
            ours, theirs = ours.mean(1, keepdim=True), theirs.mean(1, keepdim=True)
        logs, known = ours.float().clamp_min(1e-9).log(), theirs.float()
        each = (known * (known.clamp_min(1e-9).log() - logs)).sum(-1).mean(1)
        distances.append(_mean(each, mask))
    return torch.stack(distances).mean()


def value_relations(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """``KL(teacher || student)`` of ``softmax(V V^T / sqrt(d))``, nats a position.

    Relations have the size of the text, so widths and heads may differ.

    Args:
        student: Values of its last layer, ``[b, t, d_s]``.
        teacher: The same, ``[b, t, d_t]``.
        mask: ``[b, t]``.
    """
    hidden = torch.where(mask[:, None, :] != 0, 0.0, _NEVER)
    ours, theirs = (
        (values.float() @ values.float().mT / values.shape[-1] ** 0.5 + hidden).log_softmax(-1)
        for values in (student, teacher)
    )
    each = functional.kl_div(ours, theirs, reduction="none", log_target=True).sum(-1)
    return _mean(each, mask)


def cosine_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """``1 - cosine`` of vectors ``[b, d]``, mean over texts.

    Raises:
        ValueError: If they have other dimensions.
    """
    if student.shape != teacher.shape:
        raise _other_space(student, teacher)
    return (1 - functional.cosine_similarity(student.float(), teacher.float(), dim=-1)).mean()


def similarity_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the cosines between the texts of a batch.

    Args:
        student: ``[b, d_s]``.
        teacher: ``[b, d_t]``; any width.
    """
    ours, theirs = (functional.normalize(vectors.float(), dim=-1) for vectors in (student, teacher))
    return (ours @ ours.T - theirs @ theirs.T).square().mean()


def contrastive(student: Tensor, teacher: Tensor, temperature: float = 0.05) -> Tensor:
    """``-log`` of the share that each text's own vector has among the teacher's of the batch, nats.

    Args:
        student: ``[b, d]``.
        teacher: ``[b, d]``.
        temperature: Divides cosines.

    Raises:
        ValueError: If they have other dimensions.
    """
    if student.shape != teacher.shape:
        raise _other_space(student, teacher)
    ours, theirs = (functional.normalize(vectors.float(), dim=-1) for vectors in (student, teacher))
    return functional.cross_entropy(
        ours @ theirs.T / temperature, torch.arange(len(ours), device=ours.device)
    )


def _other_space(student: Tensor, teacher: Tensor) -> ValueError:
    return ValueError(
        f"vectors must have the teacher's {teacher.shape[-1]} dimensions, got {student.shape[-1]}; "
        "similarity compares vectors of any width"
    )


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    weights = mask.to(values)
    return (values * weights).sum() / weights.sum().clamp_min(1)
