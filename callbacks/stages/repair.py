"""The stage that repairs what coding has done to layers' outputs, in closed form: see ``fulgurite.repair``.

last accepted artefact -> layer by layer, in the order of their calls:
    inputs in reference and artefact -> update -> fold | recode | side -> the layers after it see what it became
-> artefact of no more bytes (or with side information, charged) -> gate: it must score better than before
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from typing_extensions import override

from callbacks.stages.advice import Advice
from callbacks.stages.refine import Refine
from callbacks.stages.stage import Aim, Stage, describe
from fulgurite.calibration import MetricKind
from fulgurite.codecs import Codec, UniformCodec

How = Literal["fold", "recode", "side"]
_WAYS = ("fold", "recode", "side")
FACTORS = UniformCodec(bits=8, group_size=64)


class RepairStage(Stage):
    """Bring the outputs of coded layers back to the reference's.

    It follows a stage that codes. A try that does not score better than what it repairs is rejected.

    Args:
        how: What carries the update: ``fold``, scales, codewords and biases that are stored anyway; ``recode``, new
            codes by the codec of the weight at its rate; ``side``, a matrix of low rank beside the codes, which is
            charged.
        select: Glob patterns over parameter names; coded weights of linear layers and convolutions are repaired.
        exclude: Glob patterns to leave out of it.
        goal: What a layer is to put out: ``reference``, what the reference does for its own inputs, so that
            errors of the layers before are made up for; ``own``, what its uncoded weight does for the inputs it gets.
        keep: Share of the energy of the calibration's activations whose outputs the update must leave, 0 to 1.
        targets: File with texts, one a line, whose outputs are to come back; the calibration's by default.
        ridge: Regularisation, as a share of the mean energy of an input.
        bias: Also change biases where layers have some. They act on all inputs, kept ones too.
        metric: In what ``recode`` measures errors: ``input``, or ``kl`` as the network's outputs have it.
        rank: Of ``side``.
        factors: Codes the two factors of ``side``.
        refine: Training of the continuous parts afterwards.
        min_retention: What this stage must retain of the previous one, 0 to 1; the gate's own by default.

    Raises:
        ValueError: If a setting is out of range.
    """

    kind: ClassVar[str] = "repair"
    aim: ClassVar[Aim] = "quality"

    def __init__(
        self,
        how: How = "fold",
        select: str | list[str] = "*",
        exclude: list[str] | None = None,
        goal: Literal["reference", "own"] = "reference",
        keep: float = 0.0,
        targets: str | None = None,
        ridge: float = 0.01,
        bias: bool = True,
        metric: MetricKind = "input",
        rank: int = 4,
        factors: Codec = FACTORS,
        refine: Refine = Refine(),  # noqa: B008 (frozen)
        min_retention: float | None = None,
    ) -> None:
        super().__init__(
            select=select,
            exclude=exclude,
            source="previous",
            metric=metric,
            refine=refine,
            min_retention=min_retention,
            retries=0,
        )
        if how not in _WAYS:
            raise ValueError(f"how must be one of {', '.join(_WAYS)}, got {how!r}")
        if goal not in ("reference", "own"):
            raise ValueError(f"goal must be reference or own, got {goal!r}")
        if not 0 <= keep < 1:
            raise ValueError(f"keep must be in [0, 1), got {keep}")
        if ridge < 0:
            raise ValueError(f"ridge must not be negative, got {ridge}")
        if rank < 1:
            raise ValueError(f"rank must be at least 1, got {rank}")
        if metric == "identity":
            raise ValueError("metric must be input or kl: a repair is made of activations")
        self.how = how
        self.goal = goal
        self.keep = keep
        self.targets = targets
        self.ridge = ridge
        self.bias = bias
        self.rank = rank
        self.factors = factors

    @property
    @override
    def technique(self) -> str:
        return self.kind

    @property
    def may_grow(self) -> bool:
        """Whether side information may be added."""
        return self.how == "side"

    @override
    def settings(self) -> dict[str, Any]:
        names = ("how", "select", "exclude", "goal", "keep", "targets", "ridge", "bias", "metric", "rank")
        return {
            "codec": {"name": self.kind},
            **{name: getattr(self, name) for name in names},
            "factors": describe(self.factors),
            "refine": super().settings()["refine"],
        }

    @override
    def relaxed(self, advice: Advice) -> tuple[Stage, list[str]] | None:
        return None
