"""What a cascade needs of an image-text network: see ``Compressible``.

    rows [n, 1 + t]: place of a picture, tokens of a text -> pixels, tokens -> network -> vectors | logits

Rows are whole numbers, so that pictures are read when they are needed and caches hold no pixels.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from fulgurite.calibration.sampling import softmax_curvature
from fulgurite.distillation import Outputs
from fulgurite.evaluation.benchmarks import (
    Benchmark,
    Captioning,
    Drift,
    Matching,
    PictureComparison,
    Retrieval,
    TowerVectors,
    View,
    ZeroShot,
    class_vectors,
    compare_views,
    run_benchmarks,
)
from fulgurite.evaluation.evaluation import Evaluation
from fulgurite.evaluation.image_split import ImageSplit
from fulgurite.evaluation.scoring import evenly_spaced
from fulgurite.models.adapter import ImageTextAdapter

_SAMPLES = 4
_ANSWERS = 100  # captions that samples choose among

Original = tuple[nn.Module, ImageTextAdapter]
"""A network that another one is held against, and how it is called."""


class ImageTextCompression:
    """Zero-shot classification, retrieval, captions and drift of both towers; pictures with texts to calibrate on.

    A mixin for LightningModules with an image-text network; the data module is an ``ImageTextDataModule``.

    What a tower says of a picture or a text is taken as a Gaussian of unit variance around its vector of length 1, as
    with text encoders: the divergence from the reference is ``1 - cosine`` nats. A network that writes captions gives
    distributions over tokens, one that matches over "belongs" and "does not": theirs is the Kullback-Leibler
    divergence. Where a network gives several of these, they add up.
    """

    network: Any
    benchmarks: list[Benchmark] | None = None
    _rows_of: Any = None  # the data module that the rows of ``refinement_windows`` point into
    _reference: tuple[str, TowerVectors] | None = (
        None  # key of the data, vectors of this module's own network
    )
    _inherited: tuple[str, TowerVectors] | None = (
        None  # the same of the network that this module's one has succeeded
    )

    @property
    def adapter(self) -> ImageTextAdapter:
        """How the network is called."""
        raise NotImplementedError

    # what it is judged by

    def chosen_benchmarks(self, split: ImageSplit) -> list[Benchmark]:
        """The given benchmarks, or else all that network and data allow."""
        if self.benchmarks is not None:
            return self.benchmarks
        adapter, usual = self.adapter, list[Benchmark]()
        if adapter.writes_captions:
            usual.append(Captioning())
        if adapter.matches:
            usual.append(Matching())
        if adapter.has_vectors:
            usual.append(ZeroShot() if len(split.classes) > 1 else Retrieval())
            usual.append(Drift())
        return usual

    def evaluate_network(
        self,
        network: nn.Module,
        datamodule: Any,
        *,
        limit: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Evaluation:
        """Measure a network by the benchmarks on the evaluation split."""
        return self.measured(network, datamodule, datamodule.evaluation_split, limit, progress)

    def measured(
        self,
        network: nn.Module,
        datamodule: Any,
        split_name: str,
        limit: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Evaluation:
        """Measure a network by the benchmarks on one split."""
        split = datamodule.split(split_name)
        benchmarks = self.chosen_benchmarks(split)
        reference = None
        if self._compares(benchmarks) and (network is not self.network or self._inherited is not None):
            reference = self._reference_vectors(datamodule, split_name, limit)
        view = self._view(network, datamodule, split, limit, progress, reference)
        return run_benchmarks(benchmarks, view)

    def scores_alone(self, datamodule: Any, split_name: str, original: Original | None = None) -> Evaluation:
        """Measure this module's own network; drift only from an ``original``, as from itself there is none."""
        split = datamodule.split(split_name)
        benchmarks = self.chosen_benchmarks(split)
        reference = None
        if self._compares(benchmarks) and original is not None:
            network, adapter = original
            network.to(next(self.network.parameters()).device)
            reference = View(network, adapter, split, batch_size=datamodule.batch_size).tower_vectors()
        elif self._compares(benchmarks):
            benchmarks = [benchmark for benchmark in benchmarks if not isinstance(benchmark, Drift)]
        if not benchmarks:
            return Evaluation(())
        return run_benchmarks(
            benchmarks, self._view(self.network, datamodule, split, None, reference=reference)
        )

    def zero_shot(self) -> ZeroShot:
        """The settings by which classes are told; the usual ones where no benchmark has them."""
        given = (benchmark for benchmark in self.benchmarks or [] if isinstance(benchmark, ZeroShot))
        return next(given, ZeroShot())

    def _compares(self, benchmarks: Sequence[Benchmark]) -> bool:
        return any(isinstance(benchmark, Drift) for benchmark in benchmarks)

    def _view(
        self,
        network: nn.Module,
        datamodule: Any,
        split: ImageSplit,
        limit: int | None,
        progress: Callable[[int], None] | None = None,
        reference: TowerVectors | None = None,
    ) -> View:
        count = min(len(split), limit or len(split))
        return View(
            network,
            self.adapter,
            split,
            batch_size=datamodule.batch_size,
            limit=limit,
            # texts and several passes count too, as far as a bar over pictures goes
            progress=None if progress is None else lambda done: progress(min(done, count)),
            reference=reference,
        )

    def _reference_vectors(self, datamodule: Any, split_name: str, limit: int | None) -> TowerVectors:
        """Vectors that those of other networks should be."""
        split = datamodule.split(split_name)
        key = f"{split.sha256} {limit}"
        if self._inherited is not None:
            if self._inherited[0] != key:
                raise ValueError(
                    f"{split.description}: expected the pictures, and limit, that the first network's vectors are of"
                )
            return self._inherited[1]
        if self._reference is None or self._reference[0] != key:
            self._reference = (key, self._view(self.network, datamodule, split, limit).tower_vectors())
        return self._reference[1]

    def inherit_reference(self, other: ImageTextCompression, datamodule: Any, limit: int | None) -> None:
        """Be measured against what another module's network is measured against.

        Raises:
            ValueError: If vectors of the two have no common space, and drift is to be measured.
        """
        split = datamodule.evaluation()
        if not self._compares(self.chosen_benchmarks(split)):
            return
        theirs = other._reference_vectors(datamodule, datamodule.evaluation_split, limit)
        width = self.adapter.image_vectors(self.network, split.pixels([0])).shape[1]
        if theirs.images.shape[1] != width:
            raise ValueError(
                f"Drift needs vectors of {theirs.images.shape[1]} numbers as the reference's are, got {width}; "
                "leave Drift out of the benchmarks"
            )
        self._inherited = (f"{split.sha256} {limit}", theirs)

    def data_facts(self, datamodule: Any, limit: int | None = None) -> dict[str, Any]:
        """The evaluation split in numbers."""
        split = datamodule.evaluation()
        benchmarks = self.chosen_benchmarks(split)
        for benchmark in benchmarks:
            benchmark.check(self.adapter, split)
        count = min(len(split), limit or len(split))
        chosen = [split.captions[index] for index in evenly_spaced(len(split), limit)]
        captions = [caption for each in chosen for caption in each]
        rows = self.adapter.tokenize(
            list(dict.fromkeys(captions))
        )  # classes have the same one again and again
        settings = json.dumps([benchmark.settings for benchmark in benchmarks], sort_keys=True)
        digest = hashlib.sha256(f"{split.sha256} {settings} {self.adapter!r}".encode())
        digest.update(rows.numpy().tobytes())  # another tokenizer has other scores
        return {
            "description": split.description,
            "items": "pictures",
            "windows": count,
            "tokens": int((rows != self.adapter.pad_token).sum()),
            "bytes": sum(len(caption.encode()) for caption in captions),
            "sha256": f"{digest.hexdigest()}-{count}-{datamodule.batch_size}",
        }

    @property
    def _gives_vectors(self) -> bool:
        """Whether ``network(**batch)`` gives vectors; a network that matches gives its verdict on each pair instead."""
        return self.adapter.has_vectors and not self.adapter.matches

    # what it is calibrated and refined on

    def calibration_batches(self, datamodule: Any) -> Iterable[Mapping[str, Tensor]]:
        """Train pictures with a text each, on the network's device."""
        device = next(self.network.parameters()).device
        for batch in datamodule.calibration_batches():
            yield {name: values.to(device) for name, values in batch.items()}

    def refinement_windows(self, datamodule: Any, count: int) -> Tensor:
        """Train pictures, evenly spaced, by their place, and the tokens of one text of each."""
        self._rows_of = datamodule
        rows: Tensor = datamodule.calibration_rows(count)
        return rows

    def as_batch(self, rows: Tensor) -> dict[str, Tensor]:
        """Pictures and texts as the network takes them."""
        if self._rows_of is None:
            raise RuntimeError("rows point into the data of refinement_windows, which was not called yet")
        batch: dict[str, Tensor] = self._rows_of.row_batch(rows)
        return batch

    def divergence(
        self, outputs: Any, reference: Any, batch: Mapping[str, Tensor], temperature: float = 1.0
    ) -> Tensor:
        """Mean over pictures and texts of ``1 - cosine``, over a caption's positions or pairs of ``KL``; see the class.

        Distributions are softened by ``temperature``, whose square keeps the gradient's size.
        """
        total = _zero(batch)
        if self._gives_vectors:
            for ours, theirs in zip(
                self.adapter.vectors_of(outputs), self.adapter.vectors_of(reference), strict=True
            ):
                total = total + (1 - (ours * theirs).sum(-1)).mean() / 2
        logits, known = _logits(outputs), _logits(reference)
        if logits is not None and known is not None:
            student = functional.log_softmax(logits.float() / temperature, dim=-1)
            teacher = functional.log_softmax(known.float() / temperature, dim=-1)
            each = functional.kl_div(student, teacher, reduction="none", log_target=True).sum(-1)
            mask = _mask_of(logits, batch)
            total = total + (each.mean() if mask is None else each[mask].mean()) * temperature**2
        return total

    def sampled_loss(self, network: nn.Module, batch: Mapping[str, Tensor], generator: Generator) -> Tensor:
        """Vectors with random signs, logits with those of the softmax's curvature; see ``Compressible``."""
        outputs = network(**batch)
        total = _zero(batch)
        if self._gives_vectors:
            for vectors in self.adapter.vectors_of(outputs):
                signs = torch.randint(2, vectors.shape, generator=generator, dtype=torch.int8)
                total = total + (vectors * (2 * signs.to(vectors.device) - 1)).sum()
        logits = _logits(outputs)
        if logits is not None:
            total = total + softmax_curvature(logits, generator, _mask_of(logits, batch))
        return total

    def count_places(self, batch: Mapping[str, Tensor]) -> int:
        """Positions of captions, pairs that are matched, or else pictures and texts."""
        if self.adapter.writes_captions:
            return int((batch["input_ids"] != self.adapter.pad_token).sum())
        return (2 if self._gives_vectors else 1) * len(next(iter(batch.values())))

    def text_mask(self, batch: Mapping[str, Tensor]) -> Tensor | None:
        """Up to the end of each text, where those behind cannot be seen."""
        return self.adapter.read_mask(batch)

    def watch(self, network: nn.Module, inputs: Mapping[str, Tensor], wanted: frozenset[str]) -> Outputs:
        """Vectors of the pictures and then of the texts, or logits of captions."""
        outputs = network(**inputs)
        logits = _logits(outputs)
        vectors = torch.cat(self.adapter.vectors_of(outputs)) if self._gives_vectors else None
        length = len(next(iter(inputs.values())))
        device = next(iter(inputs.values())).device
        mask = inputs.get("attention_mask", torch.ones(length, 1, dtype=torch.int64, device=device))
        return Outputs(mask=mask, logits=logits, vectors=vectors)

    # what a reader sees, and what is kept

    def samples(self, network: nn.Module, datamodule: Any, prompts: Sequence[str]) -> list[tuple[str, str]]:
        """What is nearest to each prompt, or what is said of some pictures of the evaluation split."""
        split = datamodule.evaluation()
        view = self._view(network, datamodule, split, None if prompts else _SAMPLES)
        if self.adapter.writes_captions:
            return list(zip(view.names, view.captions_written(), strict=True))
        images = view.image_vectors()
        if prompts:
            best = (view.text_vectors(list(prompts)) @ images.T).argmax(1)
            return [(prompt, view.names[place]) for prompt, place in zip(prompts, best.tolist(), strict=True)]
        if len(split.classes) > 1:
            zero_shot = self.zero_shot()
            texts = list(zero_shot.names(split))
            known = class_vectors(view, texts, zero_shot.templates)
        else:
            spaced = evenly_spaced(len(split), _ANSWERS)
            texts = list(
                dict.fromkeys([*(each[0] for each in view.captions), *(split.captions[i][0] for i in spaced)])
            )
            known = view.text_vectors(texts)
        nearest = (images @ known.T).max(1)
        return [
            (name, f"{texts[place]} ({cosine:.3f})")
            for name, place, cosine in zip(
                view.names, nearest.indices.tolist(), nearest.values.tolist(), strict=True
            )
        ]

    def pictures(
        self,
        network: nn.Module,
        reference: ImageTextCompression,
        datamodule: Any,
        *,
        limit: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> PictureComparison | None:
        """Pictures found, captions and confusion matrices; ``None`` where the two read pictures differently."""
        if reference.adapter.images != self.adapter.images:
            return None
        split = datamodule.evaluation()
        benchmarks, seen = self.chosen_benchmarks(split), [0, 0]

        def tell(side: int, done: int) -> None:
            seen[side] = done
            if progress is not None:
                progress(sum(seen))

        return compare_views(
            reference._view(reference.network, datamodule, split, limit, partial(tell, 0)),
            self._view(network, datamodule, split, limit, partial(tell, 1)),
            zero_shot=next((each for each in benchmarks if isinstance(each, ZeroShot)), None),
            captioning=next((each for each in benchmarks if isinstance(each, Captioning)), None),
        )

    def save_as(self, folder: Path, network: Any, tokenizer: Any = None) -> None:
        """As the network's own library saves it."""
        self.adapter.save(network, folder)

    def artifact_files(self) -> dict[str, bytes]:
        """Configuration, tokenizer, and how pictures become pixels."""
        return self.adapter.files(self.network)


def _zero(batch: Mapping[str, Tensor]) -> Tensor:
    first = next(iter(batch.values()))
    return torch.zeros((), device=first.device)


def _logits(outputs: Any) -> Tensor | None:
    """Of a caption's tokens ``[b, t, V]``, or of a pair's match ``[b, 2]``; ``None`` where there are none."""
    if isinstance(outputs, tuple | list | dict) and not hasattr(outputs, "keys"):
        return None
    for name in ("logits", "itm_score"):
        found = getattr(outputs, name, None)
        # without its head the matching network gives cosines [b, b] by the same name
        if isinstance(found, Tensor) and (name == "logits" or found.shape[-1] == 2):
            return found
    return None


def _mask_of(logits: Tensor, batch: Mapping[str, Tensor]) -> Tensor | None:
    """Which positions of a caption are text; a pair has no positions."""
    mask = batch.get("attention_mask")
    return None if mask is None or logits.dim() < 3 else mask.bool()
