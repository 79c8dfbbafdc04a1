"""How many 224-pixel JPEGs a second the data path makes from WebDataset shards, beside a plain torchvision pipeline.

    python scripts/benchmark_images.py --pictures 200 --repeats 1
    python scripts/benchmark_images.py --output docs/image-data.md

Photos are written anew as JPEGs of 500 x 375, cut differently each time, into shards in a temporary folder. Each
pipeline decodes, resizes, cuts, flips and normalises them, and tokenises their captions with CLIP's tokenizer.
Wall time is what a training waits for; pictures a CPU second is what one core does when nothing else runs on it.
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import resource
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules import WebShardsDataModule
from fulgurite._version import __version__
from fulgurite.models.adapter import ImageSettings, ImageTextAdapter

_SIZE = (500, 375)  # width and height, as most photos of Flickr and MS-COCO roughly have
_QUALITY = 90
_SHARDS = 8
_GOAL = 300  # pictures a second on two cores


@dataclass(frozen=True)
class Row:
    """One pipeline with a number of workers."""

    pipeline: str
    workers: int
    per_second: float
    per_cpu_second: float


def write_shards(source: Path, folder: Path, count: int) -> str:
    """Write ``count`` JPEGs with captions into shards; gives their name with braces."""
    from PIL import Image

    captions = {}
    for image in json.loads((source / "captions.json").read_text())["images"]:
        captions[image["filename"]] = image["sentences"][0]["raw"]
    with zipfile.ZipFile(source / "images.zip") as archive:
        photos = [
            (Image.open(io.BytesIO(archive.read(name))).convert("RGB"), captions[name])
            for name in sorted(captions)
        ]
    shards = [tarfile.open(folder / f"photos-{shard:03d}.tar", "w") for shard in range(_SHARDS)]  # noqa: SIM115
    for number in range(count):
        photo, caption = photos[number % len(photos)]
        round_, (width, height) = number // len(photos), photo.size
        edge = 0.02 * (round_ % 10)
        box = (edge * width, edge * height, width * (1 - edge / 2), height * (1 - edge / 3))
        file = io.BytesIO()
        photo.resize(_SIZE, Image.Resampling.BICUBIC, box).save(file, "JPEG", quality=_QUALITY)
        for ending, data in (("jpg", file.getvalue()), ("txt", caption.encode())):
            entry = tarfile.TarInfo(f"{number:06d}.{ending}")
            entry.size = len(data)
            shards[number % _SHARDS].addfile(entry, io.BytesIO(data))
    for shard in shards:
        shard.close()
    return f"photos-{{000..{_SHARDS - 1:03d}}}.tar"


def clip_adapter() -> ImageTextAdapter:
    """CLIP's image settings and tokenizer; no weights are needed."""
    from open_clip import get_tokenizer

    from fulgurite.models.open_clip_adapter import OpenClipAdapter

    return OpenClipAdapter(ImageSettings(), {"text_cfg": {"context_length": 77}}, get_tokenizer("ViT-B-32"))


def ours(
    shards: str, folder: Path, workers: int, batch_size: int, fast: bool
) -> DataLoader[dict[str, Tensor]]:
    """The training loader of ``WebShardsDataModule``."""
    data = WebShardsDataModule(
        train=shards,
        validation=shards,
        data_dir=str(folder),
        batch_size=batch_size,
        num_workers=workers,
        augment="flip",
        fast_resize=fast,
    )
    data.use_adapter(clip_adapter())
    return data.train_dataloader()


def plain(shards: str, folder: Path, workers: int, batch_size: int) -> DataLoader[Any]:
    """What one would write with webdataset and torchvision alone."""
    import webdataset
    from torchvision import transforms

    images = ImageSettings()
    transform = transforms.Compose(
        [
            transforms.Resize(224, transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(224),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(images.mean, images.std),
        ]
    )
    adapter = clip_adapter()
    data = (
        webdataset.WebDataset(str(folder / shards), shardshuffle=100)
        .shuffle(1000)
        .decode("pilrgb")
        .to_tuple("jpg", "txt")
        .map_tuple(transform, lambda text: adapter.tokenize([text])[0])
        .batched(batch_size)
    )
    return DataLoader(data, batch_size=None, num_workers=workers)


def measure(make: Callable[[], DataLoader[Any]], pictures: int, repeats: int) -> tuple[float, float]:
    """The best of several passes: pictures a second, and pictures a CPU second of all processes."""
    found = []
    for _ in range(repeats):
        loader = make()
        start, cpu = time.perf_counter(), _cpu_s()
        seen = sum(map(_size, loader))
        seconds, cpu_s = time.perf_counter() - start, _cpu_s() - cpu
        if seen != pictures:
            raise RuntimeError(f"expected {pictures} pictures, the pipeline gave {seen}")
        found.append((seen / seconds, seen / cpu_s))
    return max(rate for rate, _ in found), max(rate for _, rate in found)


def _size(batch: Any) -> int:
    pixels = batch["pixel_values"] if isinstance(batch, dict) else batch[0]
    return len(pixels)


def _cpu_s() -> float:
    """CPU time of this process and of workers that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def rows_of(arguments: argparse.Namespace) -> Iterator[Row]:
    """Measure every pipeline with each number of workers."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shards = write_shards(arguments.data, folder, arguments.pictures)
        for workers in arguments.workers:
            settings = (shards, folder, workers, arguments.batch_size)
            pipelines: list[tuple[str, Callable[[], DataLoader[Any]]]] = [
                ("`WebShardsDataModule`", lambda settings=settings: ours(*settings, fast=True)),
                ("the same, `fast_resize: false`", lambda settings=settings: ours(*settings, fast=False)),
                ("webdataset and torchvision", lambda settings=settings: plain(*settings)),
            ]
            for pipeline, make in pipelines:
                row = Row(pipeline, workers, *measure(make, arguments.pictures, arguments.repeats))
                print(f"{pipeline}, {workers} workers: {row.per_second:.0f}/s", file=sys.stderr, flush=True)
                yield row


def page(rows: Sequence[Row], arguments: argparse.Namespace) -> str:
    """The table as Markdown, with what it was measured on."""
    words = " ".join(["python scripts/benchmark_images.py", *arguments.given])
    lines = [
        "# Pictures a second",
        "",
        f"`{words}`: Fulgurite {__version__}, PyTorch {torch.__version__}, Python {platform.python_version()}, "
        f"{platform.machine()}.",
        "",
        f"{arguments.pictures} JPEGs of {_SIZE[0]} x {_SIZE[1]} (quality {_QUALITY}) in {_SHARDS} WebDataset shards, "
        f"made into batches of {arguments.batch_size} of 224 pixels with tokens of their captions; the best of "
        f"{arguments.repeats} passes, the start of the workers included. Pictures a CPU second are what one core does; "
        "pictures a second are fewer where other programs run beside. The goal is "
        f"{_GOAL} a second on two cores.",
        "",
        "| pipeline | workers | pictures / s | pictures / CPU s |",
        "| --- | ---: | ---: | ---: |",
        *(
            f"| {row.pipeline} | {row.workers} | {row.per_second:.0f} | {row.per_cpu_second:.0f} |"
            for row in rows
        ),
    ]
    return "\n".join(lines) + "\n"


def main(given: Sequence[str] | None = None) -> None:
    """Measure, print the table, and write it where that is wanted."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/images/coco_ccby"))
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    arguments = parser.parse_args(given)
    arguments.given = list(sys.argv[1:] if given is None else given)
    torch.set_num_threads(1)
    written = page(list(rows_of(arguments)), arguments)
    print(written)
    if arguments.output is not None:
        arguments.output.write_text(written, encoding="utf-8")


if __name__ == "__main__":
    main()
