"""Under Lightning with two processes the codebooks of a fit see the rows of both, and are the same in both."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rank_processes import finish, run_script, start

from fulgurite.codecs import decode
from fulgurite.codecs.vqvae import VqvaeCodec

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


def test_a_process_trains_a_codebook_by_itself_while_others_do_other_work(tmp_path: Path) -> None:
    def work(rank: int) -> int:
        torch.distributed.init_process_group(
            "gloo",
            init_method=f"file://{tmp_path}/store",
            rank=rank,
            world_size=2,
            timeout=timedelta(seconds=60),
        )
        if rank == 0:  # as of a stage whose weights are shared out over ranks
            weight = torch.randn(256, 8, generator=torch.Generator().manual_seed(0))
            encoded = VqvaeCodec(1.0, 16, steps=3).encode(weight)
            torch.save(decode(encoded), tmp_path / "decoded.pt")
        torch.distributed.barrier()
        return 0

    for status, said in finish(start(2, work, tmp_path), tmp_path):
        assert status == 0, said[-2000:]
    weight = torch.randn(256, 8, generator=torch.Generator().manual_seed(0))
    alone = decode(VqvaeCodec(1.0, 16, steps=3).encode(weight))
    torch.testing.assert_close(torch.load(tmp_path / "decoded.pt"), alone, rtol=0, atol=1e-5)
