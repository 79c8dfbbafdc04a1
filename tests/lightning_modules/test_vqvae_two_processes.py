"""Under Lightning with two processes the codebooks of a fit see the rows of both, and are the same in both."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from rank_processes import run_script

SCRIPT = """
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
import torch
from lightning.pytorch import Trainer, seed_everything

from callbacks.codebook_health import CodebookHealth
from datamodules import FeatureDataModule
from fulgurite.vqvae.quantiser import QuantiserSettings
from lightning_modules import HierarchicalVqvae

folder = Path(sys.argv[2])


class Kept(HierarchicalVqvae):
    def on_train_end(self):
        super().on_train_end()
        found = {
            "backend": torch.distributed.get_backend(),
            "state": self.network.state_dict(),
            "tokens": self.network.tokens_by_level(),
        }
        torch.save(found, folder / f"{self.global_rank}.pt")


if __name__ == "__main__":
    seed_everything(0, verbose=False)
    data = FeatureDataModule(
        str(folder / "t.npz"), categories="source", batch_size=64, cache_dir=str(folder / "cache")
    )
    # measured curves decide the sizes, gates what is left of them: both must be alike in both processes
    module = Kept(
        strategy="worst", bits_per_feature=1.0, quantiser=QuantiserSettings(codes=16, decay=0.9), learn_ratios=True
    )
    trainer = Trainer(
        accelerator="cpu", devices=2, strategy="ddp", max_epochs=4, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, limit_val_batches=0,
        callbacks=[CodebookHealth(plot=False)],
    )
    trainer.fit(module, datamodule=data)
"""


def _fit(folder: Path) -> list[dict[str, Any]]:
    random = np.random.default_rng(0)
    tied = random.normal(size=(900, 1)) + 0.2 * random.normal(size=(900, 8))
    free = random.normal(size=(900, 4))
    np.savez(folder / "t.npz", tied=tied.astype(np.float32), free=free.astype(np.float32))
    run_script(2, SCRIPT, folder, str(Path(__file__).parents[2]), str(folder))
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def test_both_processes_have_one_network_that_has_seen_the_rows_of_both(tmp_path: Path) -> None:
    one, two = _fit(tmp_path)
    assert one["backend"] == "gloo"
    assert one["tokens"] == two["tokens"]
    assert one["state"].keys() == two["state"].keys()
    for key, values in one["state"].items():
        torch.testing.assert_close(two["state"][key], values, rtol=0, atol=0, msg=f"{key} differs")
    uses = [values for key, values in one["state"].items() if key.endswith("cluster_size")]
    assert uses
    for (
        use
    ) in uses:  # of each codebook: moving means of how many rows chose a code in a step, 64 in each process
        assert use.sum(-1).min() > 100
