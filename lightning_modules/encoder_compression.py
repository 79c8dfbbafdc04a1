"""What a cascade needs of a text encoder: see ``Compressible``."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from fulgurite.artifact.network_files import network_files
from fulgurite.distillation import Outputs, observe
from fulgurite.evaluation.evaluation import Evaluation
from fulgurite.evaluation.similarity import chosen_pairs, evaluate_similarity
from fulgurite.models import Pooling, embed_rows, token_batch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FIDELITY = "fidelity"
MEASURES = ("spearman", FIDELITY)
"""What an encoder can be judged by."""

_SAMPLES = 3
_NEAREST = 3


class EncoderCompression:
    """Rank correlation with known similarities and fidelity of the vectors; sentences to calibrate and refine on.

    A mixin for LightningModules with a text encoder; the data module is a ``SentencesDataModule``.

    What an encoder says of a text is taken as a Gaussian of unit variance around its vector of length 1.
    Between two of them the Kullback-Leibler divergence is half the squared distance of the vectors, which is
    ``1 - cosine``. So divergences are in nats a text, and a cosine of 0.99 is 0.01 nats.
    """

    network: Any
    measures: frozenset[str] = frozenset(MEASURES)
    _reference: tuple[str, Tensor] | None = None  # digest of the data, vectors of this module's own network
    _inherited: Tensor | None = None  # vectors of the network that this module's one has succeeded

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The network's tokenizer."""
        raise NotImplementedError

    @property
    def pooling(self) -> Pooling:
        """How token vectors become one."""
        raise NotImplementedError

    @property
    def pad_token(self) -> int:
        """What rows are padded with."""
        return int(self.tokenizer.pad_token_id)

    def evaluate_network(
        self,
        network: nn.Module,
        datamodule: Any,
        *,
        limit: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Evaluation:
        """Measure a network on the pairs of the evaluation split."""
        pairs = datamodule.evaluation_pairs()
        result = evaluate_similarity(
            network,
            pairs,
            self.pooling,
            self.pad_token,
            reference=self._compared(network, datamodule, limit),
            batch_size=2 * datamodule.batch_size,
            limit=limit,
            progress=progress,
        )
        if network is self.network:
            self._reference = (self._digest(datamodule, limit), result.vectors)
        facts = {"pearson": result.pearson, "texts_per_second": len(result.vectors) / result.seconds}
        return Evaluation([one for one in result.measures if one.name in self.measures], facts)

    def _compared(self, network: nn.Module, datamodule: Any, limit: int | None) -> Tensor | None:
        """Vectors that those of ``network`` should be."""
        if FIDELITY not in self.measures:
            return None
        if self._inherited is not None:
            return self._inherited
        return None if network is self.network else self._reference_vectors(datamodule, limit)

    def _reference_vectors(self, datamodule: Any, limit: int | None) -> Tensor:
        """Vectors that this module's own network gives the evaluation split."""
        digest = self._digest(datamodule, limit)
        if self._reference is None or self._reference[0] != digest:
            pairs = datamodule.evaluation_pairs()
            size = 2 * datamodule.batch_size
            own = evaluate_similarity(
                self.network, pairs, self.pooling, self.pad_token, batch_size=size, limit=limit
            )
            self._reference = (digest, own.vectors)
        return self._reference[1]

    def data_facts(self, datamodule: Any, limit: int | None = None) -> dict[str, Any]:
        """The evaluation split in numbers."""
        pairs = datamodule.evaluation_pairs()
        chosen = chosen_pairs(len(pairs), limit)
        rows = torch.cat([pairs.first[chosen], pairs.second[chosen]])
        largest, known = int(rows.max()), self.network.get_input_embeddings().num_embeddings
        if largest >= known:
            raise ValueError(
                f"the tokenizer gives token {largest}, the network knows {known}: is it another network's tokenizer?"
            )
        texts = [text for index in chosen.tolist() for text in pairs.sentences[index]]
        return {
            "description": datamodule.describe(),
            "items": "pairs",
            "windows": len(chosen),
            "tokens": int((rows != self.pad_token).sum()),
            "bytes": sum(len(text.encode()) for text in texts),
            "sha256": self._digest(datamodule, limit),
        }

    def _digest(self, datamodule: Any, limit: int | None) -> str:
        """Hash of all that scores depend on beside the weights."""
        pairs = datamodule.evaluation_pairs()
        digest = hashlib.sha256(f"{sorted(self.measures)} {self.pooling!r}".encode())
        for part in (pairs.first, pairs.second, pairs.scores):
            digest.update(f"{tuple(part.shape)}".encode() + part.numpy().tobytes())
        return f"{digest.hexdigest()}-{len(chosen_pairs(len(pairs), limit))}-{datamodule.batch_size}"

    def calibration_batches(self, datamodule: Any) -> Iterable[Mapping[str, Tensor]]:
        """Train sentences, on the network's device."""
        device = next(self.network.parameters()).device
        for batch in datamodule.calibration_batches():
            yield {name: values.to(device) for name, values in batch.items()}

    def refinement_windows(self, datamodule: Any, count: int) -> Tensor:
        """Padded train sentences, evenly spaced."""
        rows: Tensor = datamodule.training_rows(count)
        return rows

    def as_batch(self, rows: Tensor) -> dict[str, Tensor]:
        """Padded rows, cut to the longest text, and what of them is text."""
        return token_batch(rows, self.pad_token)

    def divergence(
        self, outputs: Any, reference: Any, batch: Mapping[str, Tensor], temperature: float = 1.0
    ) -> Tensor:
        """``1 - cosine`` between the vectors of a text, mean over the texts: nats, see the class.

        ``temperature`` changes nothing: it would widen both Gaussians, which divides the divergence by its
        square, and the factor that keeps the gradient's size multiplies by it again.
        """
        ours, theirs = (self._directions(output, batch) for output in (outputs, reference))
        return (1 - (ours * theirs).sum(-1)).mean()

    def sampled_loss(self, network: nn.Module, batch: Mapping[str, Tensor], generator: Generator) -> Tensor:
        """Every text is a place: its vector, summed with random signs.

        With ``J`` the derivative of the vectors the gradient is ``J^T signs``, and its second moment ``J^T J``:
        the Fisher information of Gaussians of unit variance, and the hessian of ``divergence`` times the number
        of texts. Answers drawn from the Gaussians would have the same one with more noise.
        """
        vectors = self._directions(network(**batch), batch)
        signs = torch.randint(2, vectors.shape, generator=generator, dtype=torch.int8).to(vectors.device)
        return (vectors * (2 * signs - 1)).sum()

    def count_places(self, batch: Mapping[str, Tensor]) -> int:
        """Every text."""
        return len(batch["input_ids"])

    def text_mask(self, batch: Mapping[str, Tensor]) -> Tensor | None:
        """All but the padding."""
        return batch.get("attention_mask")

    def _directions(self, output: Any, batch: Mapping[str, Tensor]) -> Tensor:
        """Vectors of length 1, whether or not the encoder normalises its own, ``[n, d]``."""
        pooled = self.pooling.pool(output.last_hidden_state.float(), batch["attention_mask"])
        return functional.normalize(pooled, dim=-1)

    def samples(self, network: nn.Module, datamodule: Any, prompts: Sequence[str]) -> list[tuple[str, str]]:
        """What is nearest to each prompt in the evaluation split; without prompts, how alike some pairs are."""
        pairs = datamodule.evaluation_pairs()
        if not prompts:
            chosen = chosen_pairs(len(pairs), _SAMPLES)
            first, second = (
                functional.normalize(self._vectors(network, side[chosen]), dim=1)
                for side in (pairs.first, pairs.second)
            )
            cosines = (first * second).sum(1).tolist()
            return [
                (" / ".join(pairs.sentences[index]), f"cosine {cosine:.3f}, rated {pairs.scores[index]:g}")
                for index, cosine in zip(chosen.tolist(), cosines, strict=True)
            ]
        texts = list(dict.fromkeys(text for pair in pairs.sentences for text in pair))
        known, asked = (
            functional.normalize(self._vectors(network, datamodule.rows(each)), dim=1)
            for each in (texts, list(prompts))
        )
        best = (asked @ known.T).topk(min(_NEAREST, len(texts)))
        return [
            (prompt, "\n".join(f"{cosine:.3f}  {texts[index]}" for cosine, index in zip(*found, strict=True)))
            for prompt, *found in zip(prompts, best.values.tolist(), best.indices.tolist(), strict=True)
        ]

    def _vectors(self, network: nn.Module, rows: Tensor) -> Tensor:
        return embed_rows(network, rows, self.pooling, self.pad_token)

    def watch(self, network: nn.Module, inputs: Mapping[str, Tensor], wanted: frozenset[str]) -> Outputs:
        """Token vectors are hidden states; ``vectors`` have length 1."""
        output, outputs = observe(network, inputs, wanted)
        return replace(outputs, vectors=self._directions(output, inputs)) if "vectors" in wanted else outputs

    def artifact_files(self) -> dict[str, bytes]:
        """Configuration and tokenizer, and what sentence-transformers reads beside them."""
        width = int(self.network.config.hidden_size)
        return {**network_files(self.network, self.tokenizer), **self.pooling.files(width)}
