"""One network on one split: what it says of pictures and texts, computed once for all benchmarks.

pictures -> pixels -> network -> image vectors [n, d], captions written, matching scores
captions -> tokens -> network -> text vectors [m, d], owners [m]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fulgurite.evaluation.benchmarks.running import running
from fulgurite.evaluation.image_split import ImageSplit
from fulgurite.evaluation.scoring import evenly_spaced
from fulgurite.models.adapter import ImageTextAdapter


@dataclass(frozen=True)
class TowerVectors:
    """What both towers say of a view's pictures and captions; a reference's is what drift is measured against.

    Args:
        images: Of the pictures, float32 ``[n, d]``.
        captions: Of all captions, picture by picture, float32 ``[m, d]``.
    """

    images: Tensor
    captions: Tensor


class View:
    """A network as benchmarks see it: in eval mode, without gradients, its own modes restored after each pass.

    Args:
        network: Any that the adapter calls.
        adapter: How to call it.
        split: The pictures with their texts and classes.
        batch_size: Pictures or texts at a time.
        limit: Pictures at most, evenly spaced: files tend to be sorted by class.
        progress: Called after each batch with the pictures and texts done so far, over all passes.
        device: Where the network is; by default that of its first parameter.
        reference: ``tower_vectors()`` of the reference on the same split with the same ``limit``; without it the
            network is its own reference.

    Raises:
        ValueError: If there are no pictures or a number is out of range.
    """

    def __init__(
        self,
        network: nn.Module,
        adapter: ImageTextAdapter,
        split: ImageSplit,
        *,
        batch_size: int = 64,
        limit: int | None = None,
        progress: Callable[[int], None] | None = None,
        device: torch.device | str | None = None,
        reference: TowerVectors | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if len(split) < 1:
            raise ValueError(f"the split must have at least one picture, got none in {split.description}")
        self.network = network
        self.adapter = adapter
        self.split = split
        self.batch_size = batch_size
        self.indices = evenly_spaced(len(split), limit)
        """Of the chosen pictures in the split, ``[n]``; all else here is in their order."""
        self.reference = reference
        first = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
        self.device = torch.device(device) if device is not None else first
        self._progress = progress
        self._done = 0
        self._images: Tensor | None = None
        self._captions: Tensor | None = None
        self._written: dict[tuple[int, int], list[str]] = {}

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def names(self) -> list[str]:
        """Of the chosen pictures."""
        return [self.split.names[index] for index in self.indices]

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """Classes of the chosen pictures, ``[n]``; ``None`` where there are none."""
        return None if self.split.labels is None else np.asarray(self.split.labels)[self.indices]

    @property
    def captions(self) -> list[list[str]]:
        """Texts of each chosen picture."""
        return [list(self.split.captions[index]) for index in self.indices]

    @property
    def owners(self) -> NDArray[np.int64]:
        """Place, in ``indices``, of the picture of each caption, ``[m]``."""
        return np.repeat(np.arange(len(self), dtype=np.int64), [len(texts) for texts in self.captions])

    def image_vectors(self) -> Tensor:
        """Vectors of the chosen pictures, float32 ``[n, d]`` on the CPU."""
        if self._images is None:
            with running(self.network):
                parts = [self.adapter.image_vectors(self.network, pixels) for _, pixels in self._batches()]
            self._images = torch.cat([part.float().cpu() for part in parts])
        return self._images

    def text_vectors(self, texts: Sequence[str]) -> Tensor:
        """Vectors of any texts, float32 ``[len(texts), d]`` on the CPU; equal texts have equal vectors."""
        place = {text: index for index, text in enumerate(dict.fromkeys(texts))}
        different = list(place)
        parts = []
        with running(self.network):
            for start in range(0, len(different), self.batch_size):
                some = different[start : start + self.batch_size]
                tokens = self.adapter.tokenize(some).to(self.device)
                parts.append(self.adapter.text_vectors(self.network, tokens).float().cpu())
                self._tell(len(some))
        return torch.cat(parts)[[place[text] for text in texts]]

    def caption_vectors(self) -> tuple[Tensor, NDArray[np.int64]]:
        """Vectors of all captions, float32 ``[m, d]`` on the CPU, with their ``owners``."""
        if self._captions is None:
            self._captions = self.text_vectors([text for texts in self.captions for text in texts])
        return self._captions, self.owners

    def tower_vectors(self) -> TowerVectors:
        """What later networks take as ``reference``."""
        return TowerVectors(self.image_vectors(), self.caption_vectors()[0])

    def captions_written(
        self, *, num_beams: int = 3, max_new_tokens: int = 30, places: Sequence[int] | None = None
    ) -> list[str]:
        """A caption of each chosen picture, by the network.

        Args:
            num_beams: Of the beam search.
            max_new_tokens: Of a caption.
            places: Those of some pictures only, by their place in ``indices``; kept only if they are all.
        """
        key = (num_beams, max_new_tokens)
        if key in self._written:
            known = self._written[key]
            return known if places is None else [known[place] for place in places]
        written: list[str] = []
        with running(self.network):
            for _, pixels in self._batches(places):
                written += self.adapter.generate(
                    self.network, pixels, num_beams=num_beams, max_new_tokens=max_new_tokens
                )
        written = [text.strip() for text in written]
        if places is None:
            self._written[key] = written
        return written

    def match_scores(self, texts: Sequence[Sequence[str]]) -> Tensor:
        """How well each chosen picture matches each of its texts here: log-odds, float32 ``[n, c]`` on the CPU.

        Args:
            texts: ``c`` of each picture.

        Raises:
            ValueError: If pictures differ in the number of texts.
        """
        counts = {len(some) for some in texts}
        if len(texts) != len(self) or len(counts) != 1:
            raise ValueError(
                f"texts must be as many for each of {len(self)} pictures, got {sorted(counts)} of {len(texts)}"
            )
        rows = []
        with running(self.network):
            for places, pixels in self._batches():
                columns = []
                for column in range(len(texts[0])):
                    tokens = self.adapter.tokenize([texts[place][column] for place in places]).to(self.device)
                    logits = self.adapter.match(self.network, pixels, tokens).float().cpu()
                    columns.append(logits[:, 1] - logits[:, 0])
                rows.append(torch.stack(columns, dim=1))
        return torch.cat(rows)

    def has_finite_weights(self) -> bool:
        """Whether all parameters are numbers; a network without them writes no captions worth the name."""
        return all(bool(torch.isfinite(parameter).all()) for parameter in self.network.parameters())

    def _batches(self, places: Sequence[int] | None = None) -> Iterator[tuple[Sequence[int], Tensor]]:
        """Places in ``indices``, all or some, with their pixels on the network's device."""
        chosen = range(len(self)) if places is None else places
        for start in range(0, len(chosen), self.batch_size):
            some = chosen[start : start + self.batch_size]
            yield some, self.split.pixels([self.indices[place] for place in some]).to(self.device)
            self._tell(len(some))

    def _tell(self, count: int) -> None:
        self._done += count
        if self._progress is not None:
            self._progress(self._done)
