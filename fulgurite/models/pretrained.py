"""What transformers loads, found and read whole or not at all.

    folder or hub id -> the folder, if it is one here -> weights, none missing -> network in eval mode

transformers is imported when a function is called: the core installs without it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch


def local_folder(source: str | Path, expected: str) -> Path | None:
    """The folder that a source names; ``None`` for what can only be a hub id.

    Args:
        source: A folder, or NAME or OWNER/NAME of a hub; whatever else looks like a path is one.
        expected: What the folder should hold, for the message.

    Raises:
        FileNotFoundError: If it is a path with no folder at it.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    looks_local = isinstance(source, Path) or path.is_absolute() or path.parts[:1] in ((".",), ("..",))
    if path.exists() or looks_local or len(path.parts) > 2 or str(source).startswith("./"):
        found = "a file" if path.exists() else "nothing"
        raise FileNotFoundError(f"{source}: expected a folder with {expected}, found {found}")
    return None


def listing(folder: Path) -> str:
    """The first names in a folder, for messages of what was found there."""
    names = sorted(path.name for path in folder.iterdir())
    return (", ".join(names[:5]) + (", ..." if len(names) > 5 else "")) or "an empty folder"


def from_hub(auto: Any, source: str | Path, what: str, *, local: bool) -> Any:
    """A configuration, tokenizer or processor of a folder or hub id.

    Args:
        auto: A class of transformers with ``from_pretrained``.
        source: Folder, or id on the Hugging Face hub.
        what: What it is, for the message.
        local: Whether it is a folder here: nothing is asked of a hub.

    Raises:
        ValueError: If there is none.
    """
    try:
        return auto.from_pretrained(str(source), local_files_only=local)
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{source}: expected a folder here or a {what} on the Hugging Face hub, found neither ({reason})"
        ) from error


def load_whole(
    auto: Any, source: str, *, what: str, dtype: torch.dtype, local: bool, shown: str | None = None
) -> tuple[Any, list[str]]:
    """A trained network; never one with random weights in it.

    Args:
        auto: A class of transformers with ``from_pretrained``.
        source: Folder, or id on the Hugging Face hub.
        what: What it should be, for the message.
        dtype: Type of the weights in memory, whatever the file holds.
        local: Whether it is a folder here: nothing is asked of a hub.
        shown: The source as the user wrote it, where that differs.

    Returns:
        The network on the CPU in eval mode, and the names of entries that it has no use for.

    Raises:
        FileNotFoundError: If a folder holds no weights.
        ValueError: If there is no such network, or weights are missing or of another shape: with their names.
    """
    from safetensors import SafetensorError

    shown = shown or source
    folder = Path(source).expanduser()
    if local and not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")):
        raise FileNotFoundError(f"{folder}: expected weights (model.safetensors), found {listing(folder)}")
    try:
        with quiet():
            network, info = auto.from_pretrained(
                str(folder) if local else source,
                dtype=dtype,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # reported below with the names
                local_files_only=local,
            )
    except SafetensorError as error:
        raise ValueError(f"{shown}: the weights cannot be read, are they cut short? ({error})") from error
    except OSError as error:
        raise ValueError(f"{shown}: no {what}: {str(error).splitlines()[0]}") from error
    mismatched = (key if isinstance(key, str) else key[0] for key in info["mismatched_keys"])
    lost = sorted({*info["missing_keys"], *mismatched})
    if lost:
        named = ", ".join(lost[:5]) + (f" and {len(lost) - 5} more" if len(lost) > 5 else "")
        raise ValueError(f"{shown}: {len(lost)} weights are missing or of another shape: {named}")
    return network.eval(), sorted(info["unexpected_keys"])


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' progress bars and loading report to itself: errors are raised, with names."""
    from transformers import utils

    logging: Any = utils.logging  # without annotations
    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
