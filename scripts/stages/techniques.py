"""What is compared: techniques, networks and ratios; a technique on a network is a recipe of one stage a ratio.

network, technique -> recipe: x8, x16 and x32, each from the reference within its bytes -> ``fulgurite compress``
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

RATIOS = (8, 16, 32)
DATA_IN_RECIPES = "../shared/data"
LOWEST_GATE = {"stage_retention": [0.0001], "cumulative": 0.0001, "floor": 0.0001}
"""A stage that the gate turns down is measured all the same; it is not held against the ones before."""

_ECQ = {"class_path": "EcqCodec", "init_args": {"states": 8}}
_BYTES = {"class_path": "UniformCodec", "init_args": {"bits": 8, "group_size": 64}}
_ALONE = (0.98, 0.97, 0.96, 0.95, 0.93, 0.9, 0.86, 0.8, 0.72, 0.6, 0.4)  # zeros among 16-bit survivors
_JOINT = {
    2: (0.97, 0.95, 0.9, 0.8, 0.65),
    3: (0.8, 0.65, 0.5),
    4: (0.6, 0.45, 0.3, 0.15),
    5: (0.3,),
}  # by bits
_CORRECTED = {2: (0.95, 0.85), 3: (0.8, 0.6), 4: (0.5, 0.2)}


def _sparse(bits: int, sparsity: float) -> dict[str, Any]:
    return {
        "class_path": "SparseCodec",
        "init_args": {"sparsity": sparsity, "bits": bits, "score": "sparsegpt"},
    }


def _low_rank(**inner: Mapping[str, Any]) -> dict[str, Any]:
    return {"class_path": "LowRankCodec", "init_args": {"bits_per_weight": 2, **inner}}


def _corrected(inner: Mapping[str, Any], **settings: Any) -> dict[str, Any]:
    """Rank 2 in 8 bits beside ``inner``; in one round, as a second one gains little and takes as long again."""
    fixed = {"rank": 2, "iterations": 1, "factors": _BYTES}
    return {"class_path": "LowRankPlusCodec", "init_args": {**fixed, "inner": inner, **settings}}


@dataclass(frozen=True)
class Technique:
    """A way to code a weight at many rates.

    Args:
        key: Name of its runs.
        title: What tables call it.
        what: One line for the reader.
        codec: Of the stage.
        joint: Whether it is more than one of prune, low rank and quantise.
        candidates: What the allocation chooses from; by default what the codec says itself.
        before: A stage that goes before all ratios, by its name; it sees attention alone where ``{blocks}`` stands.
    """

    key: str
    title: str
    what: str
    codec: Mapping[str, Any]
    joint: bool
    candidates: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    before: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)


def _heads(energy: float) -> dict[str, Any]:
    settings = {"energy": energy, "select": "{blocks}", "min_retention": 0.0001}
    return {"heads": {"class_path": "callbacks.stages.AttentionRankStage", "init_args": settings}}


TECHNIQUES = (
    Technique(
        "prune",
        "prune",
        "`SparseCodec`, score `sparsegpt`, anywhere in a weight; survivors in 16 bits",
        _sparse(16, 0.9),
        False,
        tuple(_sparse(16, share) for share in _ALONE),
    ),
    Technique("low_rank", "low rank", "`LowRankCodec`, whitened, factors in 16 bits", _low_rank(), False),
    Technique(
        "uniform",
        "uniform",
        "`UniformCodec`, 1 to 6 bits, a step for 64 or 1,024 weights, with error feedback and entropy coding",
        {"class_path": "UniformCodec", "init_args": {"bits": 4, "entropy": True}},
        False,
        tuple(
            {
                "class_path": "UniformCodec",
                "init_args": {
                    "bits": bits,
                    "group_size": size,
                    "symmetric": size > 64,
                    "search": True,
                    "entropy": True,
                    "error_feedback": True,
                },
            }
            for bits in range(1, 7)
            for size in (64, 1024)
        ),
    ),
    Technique("ecq", "ecq", "`EcqCodec`, 8 states: a trellis and an entropy coder", _ECQ, False),
    Technique(
        "prune_bits",
        "prune, few bits",
        "`SparseCodec` as above, survivors in 2 to 5 bits, entropy-coded",
        _sparse(4, 0.6),
        True,
        tuple(_sparse(bits, share) for bits, shares in _JOINT.items() for share in shares),
    ),
    Technique(
        "low_rank_ecq",
        "low rank, ecq",
        "`LowRankCodec`, factors by `EcqCodec` at about 4 bits an entry; with as many a weight, it is coded whole",
        _low_rank(inner={"class_path": "EcqCodec", "init_args": {"rate": 4, "states": 8}}),
        True,
    ),
    Technique(
        "ecq_plus",
        "ecq + low rank",
        "`LowRankPlusCodec`: `EcqCodec` and a correction of rank 2 in 8 bits where that is better than more bits",
        _corrected(_ECQ, bits_per_weight=2),
        True,
    ),
    Technique(
        "heads_ecq",
        "heads, ecq",
        "`AttentionRankStage`, which keeps 97 % of the energy of products of attention's weights, then *ecq*",
        _ECQ,
        True,
        before=_heads(0.97),
    ),
    Technique(
        "turned_ecq",
        "heads turned, ecq",
        "the same in the basis of the products' singular pairs, with all of their energy",
        _ECQ,
        True,
        before=_heads(1.0),
    ),
    Technique(
        "prune_plus",
        "prune + low rank",
        "`LowRankPlusCodec`: rank 2 in 8 bits first, and `SparseCodec` with 2 to 4 bits for what it leaves",
        _corrected(_sparse(3, 0.8), start="low_rank"),
        True,
        tuple(
            _corrected(_sparse(bits, share), start="low_rank")
            for bits, shares in _CORRECTED.items()
            for share in shares
        ),
    ),
)


@dataclass(frozen=True)
class Network:
    """A network that all techniques are tried on.

    Args:
        key: Name of its runs.
        title: Heading.
        what: What a reader has to know.
        recipe: In ``configs/recipes``: its model and data are taken.
        num_bytes: Of the network in fp32, which a ratio is of; ``None`` where the limit is on what is selected alone.
        source: Folder or name that takes the place of the recipe's; ``{runs}`` is the folder of all runs.
        data: Settings of the data module that differ.
        select: Weights that are coded.
        blocks: Attention that ``AttentionRankStage`` changes.
        probe_windows: As ``Allocate`` takes it.
        sample: As ``Allocate`` takes it.
        shown: Measures that the table has a column for.
        techniques: Keys of those that are tried; all by default.
        refine: Training after coding.
    """

    key: str
    title: str
    what: str
    recipe: str
    num_bytes: int | None
    source: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    shown: tuple[str, ...] = ()
    select: tuple[str, ...] = ("*",)
    blocks: str = "*"
    probe_windows: int = 8
    sample: int = 1 << 16
    techniques: tuple[str, ...] = ()
    refine: Mapping[str, Any] = field(default_factory=dict)

    @property
    def compared(self) -> list[Technique]:
        """What is tried on it."""
        return [one for one in TECHNIQUES if not self.techniques or one.key in self.techniques]


_UNCORRECTED = tuple(one.key for one in TECHNIQUES if one.key not in ("ecq_plus", "prune_plus"))
_STORIES = Network(
    "stories260k",
    "stories260K",
    "A Llama of 260 thousand weights on TinyStories, all of it within the limit: 128 windows of 256 tokens to judge "
    "by, 32 for calibration.",
    "stories260k_budget",
    1_040_128,
    data={"max_windows_validation": 128, "calibration_windows": 32},
    shown=("bits_per_byte", "next_token"),
)
NETWORKS = (
    _STORIES,
    replace(
        _STORIES,
        key="stories260k_trained",
        title="stories260K, trained after coding",
        what="The same, and after coding each row trains what is continuous in it (values of survivors, factors, "
        "scales, norms) towards the reference's outputs, 60 steps of 8 windows, as the presets do.",
        techniques=("prune", "ecq", "prune_bits"),
        refine={"steps": 60, "learning_rate": 0.003},
    ),
    Network(
        "clip_emoji",
        "Emoji CLIP",
        "The CLIP of 1.4 million weights of `configs/recipes/clip_emoji.yaml`, all of it within the limit: the 185 "
        "emoji of the test split to judge by, retrieval both ways and each tower's drift; 128 pictures to calibrate.",
        "clip_emoji",
        5_437_444,
        source="{runs}/clip_blip/fit_clip_emoji/network",
        data={"calibration_images": 128},
        shown=("image_to_text_r10", "text_to_image_r10", "image_fidelity", "text_fidelity"),
        # without corrections of low rank, whose curves of 48 whole weights take half an hour
        techniques=_UNCORRECTED,
        sample=1 << 12,
    ),
    Network(
        "minilm",
        "MiniLM, one layer",
        "all-MiniLM-L6-v2, of which five of the six matrices of one layer, the fourth of six, are coded, 1.2 million "
        "weights, which keeps a run short; the others have 16 bits. 8x, 16x and 32x are here 4, 2 and 1 bits for each "
        "of the coded weights, and the bytes are theirs. 375 rated pairs of captions to judge by, 250 texts to "
        "calibrate.",
        "minilm_2bit",
        None,
        data={"calibration_texts": 250},
        shown=("spearman", "fidelity"),
        techniques=_UNCORRECTED,
        select=("encoder.layer.3.attention.*", "encoder.layer.3.intermediate.*"),
        blocks="encoder.layer.3.attention",
        sample=1 << 14,
    ),
)


def recipe_of(
    network: Network, technique: Technique, recipes: Path, data: Path, runs: Path
) -> dict[str, Any]:
    """The recipe of a technique on a network: a stage a ratio, all of them judged.

    Args:
        network: Model and data.
        technique: Codec and candidates.
        recipes: Folder of the recipes.
        data: Folder with models/, text/ and so on.
        runs: Folder of all runs.
    """
    import yaml

    text = (recipes / f"{network.recipe}.yaml").read_text().replace(DATA_IN_RECIPES, str(data))
    recipe: dict[str, Any] = yaml.safe_load(text)
    model, source = recipe["model"]["init_args"], network.source
    if source is not None:
        model["source"] = source.format(runs=runs)
    recipe["data"]["init_args"] |= network.data
    settings = {"gate": LOWEST_GATE, "retries": 0, "report": False, "threads": 1}
    stages = {name: _on(network, stage) for name, stage in technique.before.items()}
    stages |= {f"x{ratio}": stage_of(network, technique, ratio) for ratio in RATIOS}
    return {"model": recipe["model"], "data": recipe["data"], "cascade": {**settings, "stages": stages}}


def _on(network: Network, stage: Mapping[str, Any]) -> dict[str, Any]:
    """A structural stage with the blocks of a network."""
    settings = {
        key: network.blocks if value == "{blocks}" else value for key, value in stage["init_args"].items()
    }
    return {**stage, "init_args": settings}


def stage_of(network: Network, technique: Technique, ratio: int) -> dict[str, Any]:
    """One stage: the technique within so many times fewer bytes than fp32."""
    allocate: dict[str, Any] = {"probe_windows": network.probe_windows, "sample": network.sample}
    if network.num_bytes is None:
        allocate["bits_per_weight"] = 32 / ratio
    else:
        allocate["budget"] = network.num_bytes // ratio
    if technique.candidates:
        allocate["candidates"] = [dict(one) for one in technique.candidates]
    stage = {
        "codec": dict(technique.codec),
        "select": list(network.select),
        "metric": "kl",
        "allocate": allocate,
    }
    return {**stage, "refine": dict(network.refine)} if network.refine else stage
