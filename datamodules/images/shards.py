"""Samples of WebDataset shards, encoded as they lie there.

    "cc3m-{00000..00331}.tar" | globs -> shards -> webdataset -> {key, jpg, txt | json} -> Sample(name, picture, texts)

Shards cut short and samples without a picture or text are counted and named; beyond a share reading stops.
Reference: https://github.com/webdataset/webdataset, whose reader is used.
"""

from __future__ import annotations

import glob
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datamodules.images.settings import looked_from

logger = logging.getLogger(__name__)
_PICTURES = ("jpg", "jpeg", "png", "webp")
_NAMED = 5  # broken samples that an error names
_FEW = 1000  # a share of fewer samples than these says little: as many are taken as seen


@dataclass(frozen=True)
class Sample:
    """A picture and its texts.

    Args:
        name: Shard and key.
        data: The encoded picture.
        texts: At least one.
    """

    name: str
    data: bytes
    texts: Sequence[str]


@dataclass
class Tally:
    """What was seen of shards, and what of it was broken; each process counts its own.

    Args:
        shards: Number of shards that there are.
        max_broken: Share of samples, and of shards, that may be broken.
    """

    shards: int
    max_broken: float
    seen: int = 0
    broken: dict[str, str] = field(default_factory=dict)
    cut: dict[str, str] = field(default_factory=dict)

    def sample(self, name: str, reason: str) -> None:
        """Count a broken sample.

        Raises:
            ValueError: If that is one too many.
        """
        if len(self.broken) < _NAMED:
            logger.warning("%s is left out: %s", name, reason)
        self.broken[name] = reason
        if len(self.broken) > self.max_broken * max(self.seen, _FEW):
            self._stop(f"{len(self.broken)} of {self.seen} samples", self.broken)

    def shard(self, url: str, reason: str) -> None:
        """Count a shard of which only a part could be read.

        Raises:
            ValueError: If that is one too many.
        """
        logger.warning("%s: the rest of this shard is left out: %s", url, reason)
        self.cut[url] = reason
        if len(self.cut) > self.max_broken * self.shards:
            self._stop(f"{len(self.cut)} of {self.shards} shards", self.cut)

    def _stop(self, count: str, found: Mapping[str, str]) -> None:
        first = ", ".join(f"{name} ({reason})" for name, reason in list(found.items())[:_NAMED])
        raise ValueError(f"{count} broken: {first}; max_broken allows a share of {self.max_broken:g}")


def expand(given: str | Sequence[str], folder: Path) -> list[str]:
    """The shards that names with braces and globs stand for; a name such as ``pipe:...`` or ``https://...`` is kept.

    Raises:
        FileNotFoundError: If a file is missing, or a glob finds nothing.
    """
    from webdataset.shardlists import expand_urls

    found: list[str] = []
    for pattern in [given] if isinstance(given, str) else given:
        for name in expand_urls(pattern):
            if name.startswith("pipe:") or "://" in name:
                found.append(name)
                continue
            path = str(folder / name)
            matches = sorted(glob.glob(path)) if glob.has_magic(name) else [path]
            missing = [match for match in matches if not Path(match).is_file()]
            if missing or not matches:
                absent = (missing or [path])[0]
                raise FileNotFoundError(f"{absent}: no such shard{looked_from(absent)}")
            found += matches
    if not found:
        raise FileNotFoundError(f"expected shards, got {given!r}")
    return found


def read_shards(urls: Iterable[str], tally: Tally, caption_key: str = "caption") -> Iterator[Sample]:
    """The samples of shards one after another.

    Raises:
        ValueError: If more are broken than ``tally`` allows.
    """
    for url in urls:
        failures: list[str] = []
        shard = url.rpartition("/")[2]
        for raw in _grouped(url, failures):
            name = f"{shard}/{raw['__key__']}"
            sample = _parsed(name, raw, caption_key)
            tally.seen += 1
            if isinstance(sample, Sample):
                yield sample
            elif not failures:  # else the end of the shard cuts through this sample
                tally.sample(name, sample)
        if failures:
            tally.shard(url, failures[0])


def _grouped(url: str, failures: list[str]) -> Iterator[Mapping[str, Any]]:
    """Files of a shard, grouped by key; what went wrong is added to ``failures``."""
    from webdataset.gopen import gopen
    from webdataset.tariterators import group_by_keys, tar_file_expander

    def noted(error: Exception) -> bool:
        # the library adds " @ " and an object in memory
        failures.append(str(error.args[0]).partition(" @ ")[0] if error.args else type(error).__name__)
        return False  # the library then ends the shard, and gives what it had of the last sample

    try:
        with gopen(url) as stream:
            files = tar_file_expander([{"url": url, "stream": stream}], handler=noted)
            yield from group_by_keys(files, handler=noted)
    except OSError as error:
        failures.append(str(error))


def _parsed(name: str, raw: Mapping[str, Any], caption_key: str) -> Sample | str:
    """A sample, or why there is none."""
    data = next((raw[key] for key in _PICTURES if key in raw), None)
    if data is None:
        inside = ", ".join(key for key in raw if not key.startswith("__")) or "nothing"
        return f"expected a picture ({', '.join(_PICTURES)}), found {inside}"
    texts, reason = _texts(raw, caption_key)
    return Sample(name, data, texts) if texts else reason


def _texts(raw: Mapping[str, Any], caption_key: str) -> tuple[list[str], str]:
    """Texts of a sample, or why there are none."""
    try:
        if "txt" in raw:
            found: Any = raw["txt"].decode("utf-8")
        elif "json" in raw:
            content = json.loads(raw["json"])
            found = content.get(caption_key) if isinstance(content, dict) else None
        else:
            return [], "expected a text (txt or json), found none"
    except ValueError as error:
        return [], f"its text cannot be read ({error})"
    several = found if isinstance(found, list) else [found]
    texts = [" ".join(text.split()) for text in several if isinstance(text, str) and text.strip()]
    return texts, f"expected a text in txt, or under {caption_key!r} in json, found none"
