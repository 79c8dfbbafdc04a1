"""Losses between pictures and texts: equal to open_clip's, to sums written out, and over two processes to one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rank_processes import run_script
from torch import Tensor
from torch.nn import functional

from lightning_modules.contrastive import affinity_loss, contrastive_loss, equal_rows, sigmoid_loss

SCALE = torch.tensor(20.0)


def vectors(seed: int, rows: int = 6, width: int = 5) -> Tensor:
    drawn = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return functional.normalize(drawn.float(), dim=-1)


def test_the_softmax_loss_is_open_clips_where_all_texts_differ() -> None:
    loss = pytest.importorskip("open_clip").ClipLoss()
    images, texts = vectors(0), vectors(1)
    torch.testing.assert_close(contrastive_loss(images, texts, SCALE), loss(images, texts, SCALE))
    one_each = torch.eye(6, dtype=torch.bool)
    torch.testing.assert_close(
        contrastive_loss(images, texts, SCALE, one_each), loss(images, texts, SCALE), rtol=1e-5, atol=1e-6
    )


def test_the_sigmoid_loss_is_open_clips() -> None:
    loss = pytest.importorskip("open_clip.loss").SigLipLoss()
    images, texts, bias = vectors(0), vectors(1), torch.tensor(-10.0)
    torch.testing.assert_close(
        sigmoid_loss(images, texts, SCALE, bias), loss(images, texts, SCALE, bias), rtol=1e-5, atol=1e-6
    )


def test_a_text_that_occurs_twice_belongs_to_both_pictures() -> None:
    images, texts = vectors(0, rows=3), vectors(1, rows=3)
    texts = torch.stack([texts[0], texts[1], texts[0]])
    tokens = torch.tensor([[7, 8], [9, 9], [7, 8]])
    logits = SCALE * images @ texts.T
    by_picture, by_text = logits.log_softmax(1), logits.T.log_softmax(1)
    expected = -sum(
        (each[0, 0] + each[0, 2]) / 2 + each[1, 1] + (each[2, 0] + each[2, 2]) / 2
        for each in (by_picture, by_text)
    ) / (2 * 3)
    torch.testing.assert_close(contrastive_loss(images, texts, SCALE, equal_rows(tokens)), expected)
    signs = torch.tensor([[1.0, -1, 1], [-1, 1, -1], [1, -1, 1]])
    pairs = -functional.logsigmoid(signs * logits).sum() / 3
    torch.testing.assert_close(sigmoid_loss(images, texts, SCALE, None, equal_rows(tokens)), pairs)


def test_affinity_is_nothing_for_equal_likenesses_whatever_the_width() -> None:
    images, texts = vectors(0), vectors(1)
    turned = torch.linalg.qr(torch.randn(7, 5, generator=torch.Generator().manual_seed(3)))[0].T  # [5, 7]
    same = affinity_loss(images, texts, SCALE, images @ turned, texts @ turned, SCALE)
    assert abs(float(same)) < 1e-5
    assert float(affinity_loss(images, texts, SCALE, texts, images.flip(0), SCALE)) > 0.1


def test_affinity_has_the_gradient_of_the_papers_cross_entropy() -> None:
    images, texts = vectors(0).requires_grad_(), vectors(1)
    teacher = SCALE * vectors(2) @ vectors(3).T
    affinity_loss(images, texts, SCALE, vectors(2), vectors(3), SCALE).backward()
    again = images.detach().clone().requires_grad_()
    student = SCALE * again @ texts.T
    paper = functional.cross_entropy(student, teacher.softmax(1)) + functional.cross_entropy(
        student.T, teacher.T.softmax(1)
    )
    (paper / 2).backward()
    torch.testing.assert_close(images.grad, again.grad, rtol=1e-4, atol=1e-6)


def test_half_precision_around_a_loss_does_not_round_its_logits() -> None:
    images, texts = vectors(0), vectors(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = contrastive_loss(images, texts, torch.tensor(100.0))
    assert rounded.dtype == torch.float32
    assert torch.equal(rounded, contrastive_loss(images, texts, torch.tensor(100.0)))


TWO_PROCESSES = """
import os, sys, torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
from lightning_modules.contrastive import contrastive_loss, equal_rows, gathered

class Towers(LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.image, self.text = torch.nn.Linear(6, 4), torch.nn.Linear(3, 4)
        self.scale = torch.nn.Parameter(torch.tensor(5.0))

    def training_step(self, batch, index):
        pictures, texts, tokens = batch
        vectors = [torch.nn.functional.normalize(tower(part), dim=-1)
                   for tower, part in ((self.image, pictures), (self.text, texts))]
        images, texts = (gathered(self, each) for each in vectors)
        return contrastive_loss(images, texts, self.scale, equal_rows(gathered(self, tokens)))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.5)

processes, target = int(sys.argv[1]), sys.argv[2]
generator = torch.Generator().manual_seed(1)
tokens = torch.tensor([0, 1, 2, 0, 3, 4, 4, 5])[:, None].repeat(3, 1)  # equal texts on both processes
data = TensorDataset(torch.randn(24, 6, generator=generator), torch.randn(24, 3, generator=generator), tokens)
module = Towers()
trainer = Trainer(
    accelerator="cpu", devices=processes, strategy="ddp" if processes > 1 else "auto", max_epochs=2,
    use_distributed_sampler=False, logger=False, enable_checkpointing=False, enable_progress_bar=False,
    enable_model_summary=False,
)
rank = int(os.environ.get("LOCAL_RANK", 0))
order = DistributedSampler(data, processes, rank, shuffle=False)  # every second row: the same eight each step
trainer.fit(module, DataLoader(data, batch_size=8 // processes, sampler=order))
if trainer.is_global_zero:
    torch.save(module.state_dict(), target)
"""


def test_two_processes_train_as_one_with_the_whole_batch(tmp_path: Path) -> None:
    found = []
    for processes in (1, 2):
        target = tmp_path / f"{processes}.pt"
        run_script(processes, TWO_PROCESSES, tmp_path, str(processes), str(target))
        found.append(torch.load(target))
    one, two = found
    torch.manual_seed(0)
    start = torch.nn.Linear(6, 4).weight
    assert (one["image.weight"] - start).abs().max() > 0.05  # it did train
    for name, value in one.items():  # six steps: the batches hold the same rows in another order
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-6)
