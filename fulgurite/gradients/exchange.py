r"""What data-parallel training does instead of an all-reduce: send gradients in few bytes, twice.

gradient / loss scale + residual -> rows of each rank -> codec -> payload to that rank -> decode -> mean of the rows
                                                            \-> what it leaves out -> residual, for the next step
mean of own rows + residual -> codec -> payload to all ranks -> decode -> * loss scale -> gradient
                                  \-> what it leaves out -> residual of the mean, for the next step
vectors, small tensors and the first steps -> all-reduce as ever

Each rank sums a share of the rows, as in a ring all-reduce, so that what a rank sends does not grow with the number of
ranks; if all sent all they have to all, it would.

References: Karimireddy et al., "Error Feedback Fixes SignSGD", ICML 2019, https://arxiv.org/abs/1901.09847, for the
residual; Tang et al., "DoubleSqueeze", ICML 2019, https://arxiv.org/abs/1905.05957, for that of the mean. Residuals are
kept by parameter, not by bucket: buckets are rebuilt after the first step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from fulgurite.gradients.codec import GradientCodec, Payload
from fulgurite.gradients.scheduler import CaqScheduler, caq

Bucket = Any  # torch.distributed.GradBucket, which torch's annotations leave out


@dataclass
class Traffic:
    """What a rank has sent, and what an uncompressed exchange would have, since the counts were last taken.

    Args:
        steps: Steps counted.
        compressed_steps: Of these, with compressed gradients.
        payload_bytes: Of a rank's gradients in payloads and of what is not compressed, once.
        dense_bytes: Of the same gradients in float32, once.
        wire_bytes: That leave the rank: payloads of others' rows, that of its own mean to each other rank, and what is
            all-reduced round a ring.
        dense_wire_bytes: The same, had all been all-reduced.
        cpu_seconds: Of the thread that codes and decodes.
        error: Sum over compressed steps of the share of energy left out.
        caq: Sum over compressed steps of CAQ.
        not_finite: Steps with a gradient that is not finite on some rank.
    """

    steps: int = 0
    compressed_steps: int = 0
    payload_bytes: float = 0.0
    dense_bytes: float = 0.0
    wire_bytes: float = 0.0
    dense_wire_bytes: float = 0.0
    cpu_seconds: float = 0.0
    error: float = 0.0
    caq: float = 0.0
    not_finite: int = 0

    def plus(self, other: Traffic) -> Traffic:
        """The sum of two."""
        return Traffic(*(getattr(self, part.name) + getattr(other, part.name) for part in fields(Traffic)))

    def metrics(self) -> dict[str, float]:
        """The names and numbers that loggers see; means over the steps counted."""
        if not self.steps:
            return {}
        found = {
            "gradients/wire_bytes": self.wire_bytes / self.steps,
            "gradients/ratio": self.dense_bytes / max(self.payload_bytes, 1),
            "gradients/wire_ratio": self.dense_wire_bytes / max(self.wire_bytes, 1)
            if self.wire_bytes
            else 1.0,
            "gradients/cpu_seconds": self.cpu_seconds / self.steps,
            "gradients/not_finite": float(self.not_finite),
        }
        if self.compressed_steps:
            found["gradients/caq"] = self.caq / self.compressed_steps
            found["gradients/error"] = self.error / self.compressed_steps
        return found


class GradientExchange:
    """A communication hook of DistributedDataParallel with its state.

    Args:
        codec: Codes a bucket's matrices.
        scheduler: Says how coarse, and follows CAQ.
        dense_steps: First steps to send uncompressed: gradients are large and change their kind there.
        min_size: Entries below which a tensor is sent uncompressed; vectors always are.

    Raises:
        ValueError: If a number is negative.
    """

    def __init__(
        self, codec: GradientCodec, scheduler: CaqScheduler, *, dense_steps: int = 50, min_size: int = 1024
    ) -> None:
        if dense_steps < 0 or min_size < 0:
            raise ValueError(
                f"dense_steps and min_size must not be negative, got {dense_steps} and {min_size}"
            )
        self.codec = codec
        self.scheduler = scheduler
        self.dense_steps = dense_steps
        self.min_size = min_size
        self.step = 0
        self.calls = 0
        self.residuals: dict[str, Tensor] = {}
        self.mean_residuals: dict[str, Tensor] = {}
        """Of the rows that this rank sums."""
        self.traffic = Traffic()
        self.skip = False
        """Whether a gradient of the step at hand is not finite on some rank; set anew by each step's first bucket."""
        self._now = Traffic()
        self._entries, self._lost = 0, 0.0  # of the step at hand: coded entries, and their errors
        self._first = True
        self._names: dict[int, str] = {}
        self._group: dist.ProcessGroup | None = None
        self._loss_scale: Callable[[], float] = lambda: 1.0

    def bind(
        self,
        parameters: Mapping[str, Tensor],
        group: dist.ProcessGroup | None = None,
        loss_scale: Callable[[], float] | None = None,
    ) -> None:
        """Tell it the parameters' names, who takes part, and what a gradient scaler multiplies the loss with."""
        self._names = {id(parameter): name for name, parameter in parameters.items()}
        self._group = group
        if loss_scale is not None:
            self._loss_scale = loss_scale

    @torch.no_grad()
    def __call__(self, state: object, bucket: Bucket) -> torch.futures.Future[Tensor]:
        """Put the mean over ranks in the place of a bucket's gradients."""
        self.calls += 1
        if self._first:
            self.skip = False
        self._first = bucket.is_last()
        gradients, parameters = bucket.gradients(), bucket.parameters()
        coarse = self.step >= self.dense_steps
        chosen = [coarse and g.dim() >= 2 and g.numel() >= self.min_size for g in gradients]
        self._reduce([g for g, code in zip(gradients, chosen, strict=True) if not code])
        coded = [
            (self._names[id(p)], g) for p, g, code in zip(parameters, gradients, chosen, strict=True) if code
        ]
        if coded:
            self._gather(coded)
        if bucket.is_last():
            self._end_step()
        done: torch.futures.Future[Tensor] = torch.futures.Future()
        done.set_result(bucket.buffer())
        return done

    @property
    def ranks(self) -> int:
        """How many take part."""
        return dist.get_world_size(self._group)

    def _reduce(self, gradients: list[Tensor]) -> None:
        if not gradients:
            return
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(flat, group=self._group)
        flat /= self.ranks
        if not bool(torch.isfinite(flat).all()):
            self.skip = True
        means = torch.split(flat, [gradient.numel() for gradient in gradients])
        for gradient, mean in zip(gradients, means, strict=True):
            gradient.copy_(mean.view_as(gradient))
        size = flat.numel() * flat.element_size()
        self._count(size, size, ring=size)

    def _gather(self, coded: list[tuple[str, Tensor]]) -> None:
        scale, rank = self._loss_scale(), dist.get_rank(self._group)
        names = [name for name, _ in coded]
        device = coded[0][1].device
        clock = time.thread_time()
        wanted = [gradient.float() / scale + self.residuals.get(name, 0.0) for name, gradient in coded]
        shares = [[_rows(value, place, self.ranks) for value in wanted] for place in range(self.ranks)]
        payloads = [self.codec.encode(rows, self.scheduler.step) for rows in shares]
        spent = time.thread_time() - clock
        received = self._send([payload.data for payload in payloads], device)
        clock = time.thread_time()
        mean = shares[rank]  # of its own rows a rank knows more than it would send
        for data in received:
            if data is not None:
                mean = [
                    have + more
                    for have, more in zip(mean, self.codec.decode(data, shares[rank]), strict=True)
                ]
        mean = [
            value / self.ranks + self.mean_residuals.get(name, 0.0)
            for name, value in zip(names, mean, strict=True)
        ]
        own = self.codec.encode(mean, self.scheduler.step)
        spent += time.thread_time() - clock
        found = self._share(own.data, device)
        clock = time.thread_time()
        parts = [
            own.decoded if place == rank else self.codec.decode(data, shares[place])
            for place, data in enumerate(found)
        ]
        whole = [torch.cat(rows) for rows in zip(*parts, strict=True)]
        finite = all(bool(torch.isfinite(value).all()) for value in whole)
        sent = [torch.cat(rows) for rows in zip(*(_sent(payloads, shares, rank)), strict=True)]
        for (name, gradient), value, out, new in zip(coded, wanted, sent, whole, strict=True):
            gradient.copy_(new * scale)
            if finite:
                self.residuals[name] = value - out
        entries = sum(value.numel() for value in wanted)
        self._entries += entries
        if finite:
            for name, value, out in zip(names, mean, own.decoded, strict=True):
                self.mean_residuals[name] = value - out
            self._lost += sum(
                payload.error * sum(row.numel() for row in rows)
                for payload, rows in zip(payloads, shares, strict=True)
            )
        else:  # the step will be skipped on all ranks: residuals stay as they were
            self.skip = True
        others = sum(payload.num_bytes for place, payload in enumerate(payloads) if place != rank)
        size = sum(payload.num_bytes for payload in payloads)
        self._count(size, 4 * entries, sent=others + own.num_bytes * (self.ranks - 1))
        self._now.cpu_seconds += spent + time.thread_time() - clock

    def _send(self, data: list[Tensor], device: torch.device) -> list[Tensor | None]:
        """Give each rank its payload; those that the others have for this one, and nothing in its own place."""
        rank = dist.get_rank(self._group)
        sizes = torch.tensor([part.numel() for part in data], device=device)
        table = [torch.zeros_like(sizes) for _ in range(self.ranks)]
        dist.all_gather(table, sizes, group=self._group)
        found: list[Tensor | None] = [None] * self.ranks
        kept = [part.to(device) for part in data]  # until all is sent
        asked = []
        for place in range(self.ranks):
            if place != rank:
                taken = torch.empty(int(table[place][rank]), dtype=torch.uint8, device=device)
                found[place] = taken
                peer = place if self._group is None else dist.get_global_rank(self._group, place)
                asked.append(dist.P2POp(dist.isend, kept[place], peer, self._group))
                asked.append(dist.P2POp(dist.irecv, taken, peer, self._group))
        for work in dist.batch_isend_irecv(asked) if asked else ():
            work.wait()
        return [None if part is None else part.cpu() for part in found]

    def _share(self, data: Tensor, device: torch.device) -> list[Tensor]:
        """The payloads of all ranks, which differ in length, on every rank."""
        size = torch.tensor([data.numel()], device=device)
        sizes = [torch.zeros_like(size) for _ in range(self.ranks)]
        dist.all_gather(sizes, size, group=self._group)
        lengths = [int(each) for each in sizes]
        padded = torch.zeros(max(lengths), dtype=torch.uint8, device=device)
        padded[: data.numel()] = data.to(device)
        parts = [torch.empty_like(padded) for _ in lengths]
        dist.all_gather(parts, padded, group=self._group)
        return [part[:length].cpu() for part, length in zip(parts, lengths, strict=True)]

    def _count(self, size: int, dense: int, *, ring: int = 0, sent: int = 0) -> None:
        around = 2 * (self.ranks - 1) / self.ranks
        self._now.payload_bytes += size
        self._now.dense_bytes += dense
        self._now.wire_bytes += sent + ring * around
        self._now.dense_wire_bytes += dense * around

    def _end_step(self) -> None:
        now, self._now = self._now, Traffic()
        now.steps, now.not_finite = 1, int(self.skip)
        if self._entries and not self.skip:
            now.compressed_steps = 1
            now.error = self._lost / self._entries
            alone = not now.wire_bytes  # one process sends nothing
            ratio = now.dense_bytes / now.payload_bytes if alone else now.dense_wire_bytes / now.wire_bytes
            now.caq = caq(ratio, now.cpu_seconds)
            self.scheduler.update(now.caq, now.error)
        self._entries, self._lost = 0, 0.0
        self.traffic = self.traffic.plus(now)
        self.step += 1

    def residual_norm(self) -> float:
        """Root of the sum of squares of what is still to be sent."""
        return math.sqrt(sum(float(value.double().square().sum()) for value in self.residuals.values()))

    def state_dict(self) -> dict[str, object]:
        """What this rank goes on with: its residuals, and where it is."""
        return {
            "step": self.step,
            "residuals": {name: value.cpu() for name, value in self.residuals.items()},
            "mean_residuals": {name: value.cpu() for name, value in self.mean_residuals.items()},
            "scheduler": self.scheduler.state_dict(),
        }

    def load_state_dict(self, states: list[dict[str, object]], rank: int, ranks: int) -> str:
        """Go on from the states of all ranks, which may have been more or fewer.

        With other ranks, each gets the mean of all residuals, those of the means included: what is still to reach the
        weights is as it was.

        Returns:
            A sentence for the user where residuals are not as they were; else nothing.
        """
        mine = states[rank] if len(states) == ranks else states[0]
        self.step = int(mine["step"])  # type: ignore[call-overload]
        self.scheduler.load_state_dict(mine["scheduler"])  # type: ignore[arg-type]
        held: list[dict[str, Tensor]] = [state["residuals"] for state in states]  # type: ignore[misc]
        means: list[dict[str, Tensor]] = [state["mean_residuals"] for state in states]  # type: ignore[misc]
        if len(states) == ranks:
            self.residuals, self.mean_residuals = held[rank], means[rank]
            return ""
        self.mean_residuals = {}
        self.residuals = {
            name: sum(residuals[name] for residuals in held) / len(states)
            + torch.cat([part[name] for part in means])
            for name in held[0]
        }
        return f"saved by {len(states)} processes, resumed by {ranks}: each takes the mean of all residuals"

    def to(self, device: torch.device) -> None:
        """Keep residuals on the gradients' device."""
        self.residuals = {name: value.to(device) for name, value in self.residuals.items()}
        self.mean_residuals = {name: value.to(device) for name, value in self.mean_residuals.items()}


def _rows(value: Tensor, rank: int, ranks: int) -> Tensor:
    """The rows that a rank sums; none where there are fewer rows than ranks."""
    return value[len(value) * rank // ranks : len(value) * (rank + 1) // ranks]


def _sent(payloads: list[Payload], shares: list[list[Tensor]], rank: int) -> list[list[Tensor]]:
    """What of each rank's rows has reached that rank: of its own, all."""
    return [shares[rank] if place == rank else payload.decoded for place, payload in enumerate(payloads)]
