"""Autoencoders over a table's features whose sizes follow the data: codes by category, in three levels.

data module -> sample -> analysis, curves -> ratios -> sizes and start -> Hierarchy
batch [n, features] -> Hierarchy -> squared error of all levels + commitment (+ price of open bits) -> AdamW, cosine

References: van den Oord et al., "Neural Discrete Representation Learning" (VQ-VAE), 2017,
https://arxiv.org/abs/1711.00937; Razavi et al., "Generating Diverse High-Fidelity Images with VQ-VAE-2", 2019,
https://arxiv.org/abs/1906.00446. Differs from both: vectors in place of pictures, an autoencoder for each category of
features, levels that code what those before have left, and a start on principal axes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from typing_extensions import override

from fulgurite.features.curves import measure_errors
from fulgurite.features.preparation import Preparation
from fulgurite.features.ratios import MEASURED, Plan, analyse, plan_codes
from fulgurite.vqvae.autoencoder import Coded
from fulgurite.vqvae.gates import Price, TokenGates
from fulgurite.vqvae.hierarchy import Hierarchy
from fulgurite.vqvae.quantiser import QuantiserSettings, shared_codebooks
from fulgurite.vqvae.storing import save_hierarchy
from fulgurite.vqvae.stream import decoder_bytes, stream_bytes
from lightning_modules.optimisation import adamw_cosine

_KEY = "hierarchical_vqvae"
_LEARN = 0.6  # share of a fit in which gates learn


class HierarchicalVqvae(LightningModule):
    """A VQ-VAE for each category of a table's features.

    Args:
        compression_ratios: ``auto``; the ratio of each of three levels, bits of 32-bit floats to bits of codes; or such
            three by category.
        strategy: For ``auto``, one for all levels or one for each: ``uniform``, ``variance``, ``dimensionality``,
            ``information``, ``balanced``, ``slope``, ``worst``.
        bits_per_feature: For ``auto``, of all levels together.
        level_shares: For ``auto``, of the bits, by level.
        quantiser: Kind and size of the codebooks.
        hidden: Width of the hidden layers; half the features of a category, at most 64, by default; 0 for none.
        learn_ratios: Start with twice the bits of ``auto``, or with the given ratios, and learn by gates which half to
            keep, in the first six tenths of the fit.
        level_weight: Weight of the error after the first levels.
        learning_rate: Highest of AdamW.
        weight_decay: For matrices.
        warmup_share: Share of the run in which the learning rate rises.
        start_rows: Train rows that analysis and start look at.
        export_dir: Folder for the trained network; the run's ``network`` by default.

    Raises:
        ValueError: If a setting is out of range; at the start of a fit, if ratios leave no code or there are fewer rows
            than codes.
    """

    def __init__(
        self,
        compression_ratios: str | list[float] | dict[str, list[float]] = "auto",
        strategy: str | list[str] = "balanced",
        bits_per_feature: float = 0.5,
        level_shares: list[float] = [0.5, 0.3, 0.2],  # noqa: B006  (copied)
        quantiser: QuantiserSettings = QuantiserSettings(),  # noqa: B008  (frozen)
        hidden: int | None = None,
        learn_ratios: bool = False,
        level_weight: float = 0.1,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.0,
        warmup_share: float = 0.1,
        start_rows: int = 8192,
        export_dir: str | None = None,
    ) -> None:
        super().__init__()
        if bits_per_feature <= 0 or learning_rate <= 0:
            raise ValueError(
                f"bits_per_feature and learning_rate must be above 0, got {bits_per_feature} and {learning_rate}"
            )
        if level_weight < 0 or (hidden is not None and hidden < 0):
            raise ValueError(f"level_weight and hidden must not be negative, got {level_weight} and {hidden}")
        self.compression_ratios = compression_ratios
        self.strategy = strategy
        self.bits_per_feature = bits_per_feature
        self.level_shares = list(level_shares)
        self.quantiser = quantiser
        self.hidden = hidden
        self.learn_ratios = learn_ratios
        self.level_weight = level_weight
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.warmup_share = warmup_share
        self.start_rows = start_rows
        self.export_dir = export_dir
        self.hierarchy: Hierarchy | None = None
        self.preparation: Preparation | None = None
        self.plan: Plan | None = None
        self._price: Price | None = None
        self._known_price: float | None = None
        self._sums: dict[str, Tensor] = {}
        self._streams: dict[str, list[Tensor]] = {}

    @property
    def network(self) -> Hierarchy:
        """The autoencoders.

        Raises:
            ValueError: Before a fit, or before a checkpoint is read.
        """
        if self.hierarchy is None:
            raise ValueError(
                "there is no network yet: fit one, or give the checkpoint of one with --ckpt_path"
            )
        return self.hierarchy

    @override
    def setup(self, stage: str) -> None:
        data: Any = getattr(self.trainer, "datamodule", None)
        if stage == "fit" and self.hierarchy is None:
            if data is None or not hasattr(data, "preparation"):
                raise ValueError("HierarchicalVqvae needs a FeatureDataModule; give --data FeatureDataModule")
            self.preparation = data.preparation
            rows = min(int(data.batch_size) * self.trainer.world_size, len(data.rows("train")))
            sample, held = (data.sample(split, self.start_rows) for split in ("train", "validation"))
            self.start(sample, held, data.preparation.categories, rows)

    def start(self, sample: Tensor, held: Tensor, categories: dict[str, list[int]], rows: int) -> None:
        """Decide the ratios and build the network.

        Args:
            sample: Standardised train rows, ``[n, features]``.
            held: Other rows, to measure curves on.
            categories: Columns of each category.
            rows: Of a training step.

        Raises:
            ValueError: If ratios leave no code, or there are fewer rows than codes.
        """
        size = self.quantiser.size
        if min(len(sample), rows) < size:
            raise ValueError(
                f"expected at least as many train rows in a batch as codes, got {min(len(sample), rows)} rows for "
                f"{size} codes; give a smaller quantiser.codes or a larger batch"
            )
        budget = self.bits_per_feature * (2 if self.learn_ratios else 1)
        names = [self.strategy] if isinstance(self.strategy, str) else self.strategy
        errors = None
        if self.compression_ratios == "auto" and any(name in MEASURED for name in names):
            most = max(1, round(budget * sample.shape[1] / self.quantiser.bits))
            seen = held if len(held) else sample
            errors = measure_errors(sample, seen, categories, self.quantiser, most, self.level_shares)
        self.plan = plan_codes(
            analyse(sample, categories),
            self.quantiser.bits,
            ratios=self.compression_ratios,
            strategy=self.strategy,
            bits_per_feature=budget,
            shares=self.level_shares,
            errors=errors,
        )
        with shared_codebooks(self._several()):
            self.hierarchy = Hierarchy.start(
                sample, categories, self.plan.tokens, self.quantiser,
                hidden=self.hidden, rows=rows, gated=self.learn_ratios,
            )  # fmt: skip

    def _several(self) -> bool:
        """Whether several processes train the network."""
        return self._trainer is not None and self.trainer.world_size > 1

    @override
    def on_fit_start(self) -> None:
        if self.learn_ratios and not self._settled():
            wanted = self.network.bits_per_row() / 2
            if self.compression_ratios == "auto":
                wanted = self.bits_per_feature * self.network.num_features
            self._price = Price(wanted)
            self._price.value = self._known_price or self._price.value

    def _settled(self) -> bool:
        """Whether gates have learned, of this fit or of the one that it goes on with."""
        coders = [coder for _, _, network in self.network.parts() for coder in network.coders()]
        return all(coder.gates is not None and bool(coder.gates.settled) for coder in coders)

    @override
    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        rows = batch["features"]
        coded = self.network(rows)
        loss, error = self.loss(rows, coded)
        self.log("train/error", error, prog_bar=True)
        if self._price is not None:
            open_bits = self.open_bits()
            loss = loss + self._price.value * open_bits / self.network.num_features
            self._price.update(float(open_bits.detach()))
            self.log("train/open_bits", open_bits.detach())
        return loss

    def open_bits(self) -> Tensor:
        """Bits of a row's codes, with the gates' gradients."""
        total = torch.zeros((), device=self.device)
        for _, _, network in self.network.parts():
            for coder in network.coders():
                count = (
                    coder.gates().sum()
                    if coder.gates is not None
                    else torch.tensor(float(coder.shape.tokens))
                )
                total = total + network.settings.bits * count
        return total

    def loss(self, rows: Tensor, coded: dict[str, Coded]) -> tuple[Tensor, Tensor]:
        """What is trained, and the mean squared error of a feature after all levels."""
        error = rows.new_zeros(())
        before = rows.new_zeros(())
        commitment = rows.new_zeros(())
        for name, places, _ in self.network.parts():
            share = len(places) / rows.shape[1]
            wanted = rows[:, places]
            levels = [(wanted - level).square().mean() for level in coded[name].levels]
            error = error + share * levels[-1]
            before = before + share * sum(levels[:-1], rows.new_zeros(()))
            commitment = commitment + share * coded[name].loss
        return error + self.level_weight * before + commitment, error.detach()

    @override
    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        # what is left has the rest of the fit to make up for what was closed
        if (
            self._price is not None
            and self.trainer.global_step >= _LEARN * self.trainer.estimated_stepping_batches
        ):
            self._settle()

    @override
    def on_train_end(self) -> None:
        self._settle()
        if self.trainer.is_global_zero and self.export_dir is not None and self.preparation is not None:
            folder = Path(self.export_dir)
            save_hierarchy(folder, self.network)
            self.preparation.write(folder / "preparation.json")

    def _settle(self) -> None:
        """Close the gates that are open beyond the budget, the least sure first; of each category one stays."""
        if self._price is None:
            return
        gates: list[tuple[float, str, TokenGates, int]] = []
        for name, _, network in self.network.parts():
            for coder in network.coders():
                assert coder.gates is not None
                gates += [
                    (logit, name, coder.gates, at) for at, logit in enumerate(coder.gates.logits.tolist())
                ]
        best = {name: max(gate[0] for gate in gates if gate[1] == name) for name in self.network.categories}
        order = sorted(gates, key=lambda gate: (gate[0] < best[gate[1]], -gate[0]))
        kept = order[: int(self._price.budget // self.quantiser.bits)]
        for each in {id(gate[2]): gate[2] for gate in gates}.values():
            each.settle([at for _, _, one, at in kept if one is each])
        self._price = None

    @override
    def on_validation_epoch_start(self) -> None:
        self._sums, self._streams = {}, {}

    @override
    def on_test_epoch_start(self) -> None:
        self.on_validation_epoch_start()

    @override
    def validation_step(self, batch: dict[str, Tensor], index: int) -> None:
        self._measure(batch["features"])

    @override
    def test_step(self, batch: dict[str, Tensor], index: int) -> None:
        self._measure(batch["features"])

    @override
    def on_validation_epoch_end(self) -> None:
        self._log_measures("val")

    @override
    def on_test_epoch_end(self) -> None:
        self._log_measures("test")

    def _measure(self, rows: Tensor) -> None:
        codes = self.network.encode(rows)
        rebuilt = self.network.decode(codes)
        for name, places, _ in self.network.parts():
            wanted = rows[:, places].double()
            sums = torch.stack([(wanted - rebuilt[:, places]).square().sum(), wanted.square().sum()])
            self._sums[name] = self._sums.get(name, torch.zeros_like(sums)) + sums
            self._streams.setdefault(name, []).append(codes[name].cpu())

    def _log_measures(self, prefix: str) -> None:
        if not self._sums:
            return
        found = self.measures()
        self.log_dict({f"{prefix}/{name}": value for name, value in found.items()}, sync_dist=True)

    def measures(self) -> dict[str, float]:
        """Of the rows of the last validation or test: errors, bits and bytes.

        Returns:
            ``error``: mean squared error of a feature; ``worst``: largest relative error of a category;
            ``relative/<category>``; ``bits_per_feature``: entropy-coded; ``decoder_bytes``.
        """
        sums = {name: [float(one) for one in values] for name, values in self._sums.items()}
        rows = sum(len(part) for part in next(iter(self._streams.values())))
        features = self.network.num_features
        relative = {name: error / max(energy, 1e-12) for name, (error, energy) in sums.items()}
        codes = {name: torch.cat(parts) for name, parts in self._streams.items()}
        coded = sum(stream_bytes(self.network, codes).values())
        return {
            "error": sum(error for error, _ in sums.values()) / (rows * features),
            "worst": max(relative.values()),
            **{f"relative/{name}": value for name, value in relative.items()},
            "bits_per_feature": 8 * coded / (rows * features),
            "decoder_bytes": float(decoder_bytes(self.network)),
        }

    @override
    def predict_step(self, batch: dict[str, Tensor], index: int) -> list[dict[str, Any]]:
        """Of each row the codes by category, and the features that they stand for, in the table's units."""
        codes = self.network.encode(batch["features"])
        rebuilt = self.network.decode(codes)
        values = (
            rebuilt.cpu().numpy()
            if self.preparation is None
            else self.preparation.restore(rebuilt.cpu().numpy())
        )
        listed = {name: found.tolist() for name, found in codes.items()}
        return [
            {"codes": {name: found[row] for name, found in listed.items()}, "features": values[row].tolist()}
            for row in range(len(values))
        ]

    @override
    def configure_optimizers(self) -> OptimizerLRScheduler:
        return adamw_cosine(
            self,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            warmup_share=self.warmup_share,
        )

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.hierarchy is not None:
            checkpoint[_KEY] = {
                "network": self.hierarchy.description(),
                "preparation": None if self.preparation is None else self.preparation.to_dict(),
                "decisions": None if self.plan is None else self.plan.decisions,
                "price": None if self._price is None else self._price.value,
            }

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if _KEY not in checkpoint:
            raise ValueError(f"expected the checkpoint of a HierarchicalVqvae, found one without {_KEY!r}")
        known = checkpoint[_KEY]
        data: Any = getattr(self._trainer, "datamodule", None) if self._trainer is not None else None
        with shared_codebooks(self._several()):
            hierarchy = Hierarchy.from_description(known["network"], getattr(data, "batch_size", 1024))
        self.hierarchy = hierarchy.to(self.device)
        self.preparation = (
            None if known["preparation"] is None else Preparation.from_dict(known["preparation"])
        )
        tokens = {name: tuple(found) for name, found in self.hierarchy.tokens_by_level().items()}
        self.plan = Plan(tokens, self.quantiser.bits, known["decisions"] or [])
        self._known_price = known["price"]
        # rows standardised otherwise, or of other columns, would be coded as if they were these
        if self.preparation is not None and data is not None and data.preparation != self.preparation:
            raise ValueError(
                "expected rows prepared as those that the checkpoint was trained on, found others; give "
                "--data.preparation RUN/network"
            )
