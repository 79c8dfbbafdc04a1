"""Calibration over several processes: the bits of one."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fulgurite.calibration import Metric, MetricKind, Share, gather_metrics
from fulgurite.calibration._shares import Batches


class Network(nn.Module):
    """An embedding, layers that share one weight, and one that only some batches reach."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 6)
        self.rare = nn.Linear(6, 6)
        self.linear = nn.Linear(6, 10)
        self.unused = nn.Linear(6, 4)
        self.linear.weight = self.embedding.weight

    def forward(self, input_ids: Tensor) -> Tensor:
        hidden: Tensor = self.embedding(input_ids)
        if bool((input_ids[0, 0] == 0).item()):
            hidden = self.rare(hidden).tanh()
        logits: Tensor = self.linear(hidden)
        return logits


NAMES = ["embedding.weight", "rare.weight", "unused.weight"]


def gathered(kind: MetricKind, count: int, share: Share) -> dict[str, Metric]:
    torch.manual_seed(0)
    network = Network()
    batches = [{"input_ids": torch.randint(10, (3, 7))} for _ in range(count)]
    batches[1]["input_ids"][0, 0] = 0  # of the second rank's share
    return gather_metrics(network, batches, NAMES, kind, share=share)


def _process(rank: int, world_size: int, kind: MetricKind, count: int, place: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{place}/store", rank=rank, world_size=world_size
    )
    found = gathered(kind, count, Share(rank, world_size))
    facts: dict[str, Any] = {name: vars(metric) for name, metric in found.items()}
    torch.save(facts, place / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("kind", ["input", "kl"])
@pytest.mark.parametrize(
    ("world_size", "count"),
    [
        (2, 19),
        (3, 10),
        (4, 2),
    ],  # chunks of several batches, a last round with fewer chunks, ranks without any
)
def test_any_number_of_processes_gives_the_bits_of_one(
    kind: MetricKind, world_size: int, count: int, tmp_path: Path
) -> None:
    alone = gathered(kind, count, Share())
    assert alone["rare.weight"].hessian is not None
    context = multiprocessing.get_context("fork")  # has torch imported already
    processes = [
        context.Process(target=_process, args=(rank, world_size, kind, count, tmp_path))
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
    assert [process.exitcode for process in processes] == [0] * world_size
    first, *others = (torch.load(tmp_path / f"{rank}.pt") for rank in range(world_size))
    assert others == [{}] * (world_size - 1), "the first process has the result"
    for name, metric in alone.items():
        for part, value in vars(metric).items():
            if isinstance(value, Tensor):
                assert torch.equal(first[name][part], value), f"{name} {part}"
            else:
                assert first[name][part] == value


def test_the_sum_is_that_of_all_batches() -> None:
    torch.manual_seed(0)
    network = Network()
    batches = [{"input_ids": torch.randint(1, 10, (3, 7))} for _ in range(19)]
    found = gather_metrics(network, batches, NAMES, "input")["embedding.weight"]
    whole = gather_metrics(
        network, [{"input_ids": torch.cat([batch["input_ids"] for batch in batches])}], NAMES, "input"
    )["embedding.weight"]
    torch.testing.assert_close(found.hessian, whole.hessian)
    torch.testing.assert_close(found.row_weight, whole.row_weight)


@pytest.mark.parametrize("kind", ["input", "kl"])
def test_with_little_room_weights_are_done_in_groups_to_the_same_bits(kind: MetricKind) -> None:
    calls: list[int] = []
    torch.manual_seed(0)
    network = Network()
    batches = [{"input_ids": torch.randint(10, (3, 7))} for _ in range(3)]
    batches[1]["input_ids"][0, 0] = 0
    names = ["embedding.weight", "rare.weight"]
    at_once = gather_metrics(network, batches, names, kind)
    groups = gather_metrics(network, batches, names, kind, room=1, progress=calls.append)
    assert len(calls) == 2 * 3, "a pass over the batches for each of the two"
    for name, metric in at_once.items():
        assert groups[name].kind == metric.kind
        for one, other in (
            (groups[name].hessian, metric.hessian),
            (groups[name].row_weight, metric.row_weight),
        ):
            torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("ranks", [2, 3, 8, 11])
@pytest.mark.parametrize("count", [1, 5, 8, 13, 17])
def test_in_step_all_processes_make_as_many_calls_and_count_each_batch_once(ranks: int, count: int) -> None:
    batches = [{"place": torch.tensor(place)} for place in range(count)]
    rounds: list[list[int]] = []
    counted: list[int] = []
    for rank in range(ranks):
        own = Batches(batches, torch.device("cpu"), None, Share(rank, ranks, in_step=True))
        sizes = []
        for _, chunk in own.chunks():
            size = 0
            for batch in chunk:
                size += 1
                if not own.idle:
                    counted.append(int(batch["place"]))
            sizes.append(size)
        rounds.append(sizes)
    assert all(sizes == rounds[0] for sizes in rounds)
    assert sorted(counted) == list(range(count))
