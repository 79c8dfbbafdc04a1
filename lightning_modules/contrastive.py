r"""Losses between pictures and their texts.

    image vectors [n, d] -\
                           cosines [n, n] -> scale, bias -> softmax both ways | sigmoid of each -> loss
    text vectors [n, d]  -/

References: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (CLIP), ICML 2021,
https://arxiv.org/abs/2103.00020, figure 3; Zhai et al., "Sigmoid Loss for Language Image Pre-Training" (SigLIP), ICCV
2023, https://arxiv.org/abs/2303.15343, section 3; Wu et al., "TinyCLIP: CLIP Distillation via Affinity Mimicking and
Weight Inheritance", ICCV 2023, https://arxiv.org/abs/2309.12314, section 3.1.
Differs from CLIP and SigLIP: a text that occurs twice in a batch belongs to both of its pictures, as in Yang et al.,
"Unified Contrastive Learning in Image-Text-Label Space", CVPR 2022, https://arxiv.org/abs/2204.03610, section 3.2;
where all texts differ nothing changes. Class names as captions would else push pictures of one class apart.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def contrastive_loss(images: Tensor, texts: Tensor, scale: Tensor, same: Tensor | None = None) -> Tensor:
    """Cross-entropy of each picture among the texts and of each text among the pictures, in nats.

    Args:
        images: Vectors of length 1, ``[n, d]``.
        texts: Those of their texts, ``[n, d]``.
        scale: What cosines are multiplied with.
        same: Which texts belong to which pictures, bool ``[n, n]``, symmetric; each to its own by default.

    Example:
        >>> vectors = torch.eye(4)
        >>> round(contrastive_loss(vectors, vectors, torch.tensor(100.0)).item(), 4)
        0.0
    """
    logits = _likeness(images, texts, scale)
    if same is None:
        labels = torch.arange(len(logits), device=logits.device)
        return (functional.cross_entropy(logits, labels) + functional.cross_entropy(logits.T, labels)) / 2
    targets = same.float() / same.sum(1, keepdim=True)  # symmetric, so it serves both ways
    return (functional.cross_entropy(logits, targets) + functional.cross_entropy(logits.T, targets)) / 2


def sigmoid_loss(
    images: Tensor, texts: Tensor, scale: Tensor, bias: Tensor | None, same: Tensor | None = None
) -> Tensor:
    """Each pair of a picture and a text told apart from those that do not belong together, in nats a picture.

    Args:
        images: Vectors of length 1, ``[n, d]``.
        texts: Those of their texts, ``[n, d]``.
        scale: What cosines are multiplied with.
        bias: What is then added; 0 by default.
        same: Which texts belong to which pictures, bool ``[n, n]``, symmetric; each to its own by default.
    """
    logits = _likeness(images, texts, scale)
    if bias is not None:
        logits = logits + bias
    belongs = torch.eye(len(logits), dtype=torch.bool, device=logits.device) if same is None else same
    return -functional.logsigmoid(torch.where(belongs, logits, -logits)).sum(1).mean()


def affinity_loss(
    images: Tensor,
    texts: Tensor,
    scale: Tensor,
    teacher_images: Tensor,
    teacher_texts: Tensor,
    teacher_scale: Tensor,
) -> Tensor:
    """How far a student's likenesses of pictures and texts are from a teacher's, in nats.

    ``KL`` of the teacher's softmax over texts for each picture and over pictures for each text from the student's. The
    paper's cross-entropy has the same gradient; the divergence is 0 where both agree. Widths may differ.

    Args:
        images: The student's vectors of length 1, ``[n, d]``.
        texts: Its vectors of the texts.
        scale: What its cosines are multiplied with.
        teacher_images: The teacher's, ``[n, e]``.
        teacher_texts: Its vectors of the texts.
        teacher_scale: What its cosines are multiplied with.
    """
    ours = _likeness(images, texts, scale)
    theirs = _likeness(teacher_images, teacher_texts, teacher_scale)
    total = ours.new_zeros(())
    for student, teacher in ((ours, theirs), (ours.T, theirs.T)):
        total = total + functional.kl_div(
            student.log_softmax(1), teacher.log_softmax(1), reduction="batchmean", log_target=True
        )
    return total / 2


def equal_rows(tokens: Tensor) -> Tensor:
    """Which rows of tokens are equal, bool ``[n, n]``.

    Example:
        >>> equal_rows(torch.tensor([[1, 2], [3, 4], [1, 2]])).int().tolist()
        [[1, 0, 1], [0, 1, 0], [1, 0, 1]]
    """
    kinds = torch.unique(tokens, dim=0, return_inverse=True)[1]
    equal: Tensor = kinds[:, None] == kinds[None, :]
    return equal


def gathered(module: Any, values: Tensor) -> Tensor:
    """The rows of all processes, ``[n, ...]`` to ``[world * n, ...]``; gradients find their way back.

    With every process computing the loss of the global batch, the backward pass adds up the gradients of all of them
    and DDP takes the mean: what results is the gradient of one process with the whole batch.

    Args:
        module: The LightningModule.
        values: As many rows on each process.
    """
    if module._trainer is None or module.trainer.world_size == 1:
        return values
    found: Tensor = module.all_gather(values, sync_grads=values.requires_grad)
    return found.flatten(0, 1)


def _likeness(images: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    """Scaled cosines in float32: at a scale of 100, half precision is off by a third of a nat."""
    with torch.autocast(images.device.type, enabled=False):
        return scale.float() * images.float() @ texts.float().T
