"""What each analysis says: from its results to tables, a plot and a lead."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict

from fulgurite.analysis.activations import LayerInputs
from fulgurite.analysis.comparison import Comparison
from fulgurite.analysis.pages import Result, Rows
from fulgurite.analysis.profile import Profile
from fulgurite.analysis.sensitivity import Sensitivities
from fulgurite.analysis.sparsity import WeightSparsity
from fulgurite.analysis.study import Study
from fulgurite.analysis.subspaces import WeightSubspaces
from fulgurite.evaluation.statistics import Interval
from fulgurite.reporting.units import UNKNOWN, format_bytes, format_percent, format_ratio, format_score

_SUBSPACES = (
    "Subspaces of the top singular vectors that hold most of a weight's energy in the reference (*k*), and of the "
    "directions in which the layer's inputs have most energy over calibration data. *Overlap* is the share of the "
    "reference's subspace that lies in the other's (mean of cos² of the principal angles); a random subspace has "
    "the overlap *chance*. Angles are means over the *k* principal angles; distances on the Grassmannian are in the "
    "JSON. *CKA* is linear and debiased: 1 is equal up to rotation and scale, 0 unrelated."
)
_SENSITIVITY = (
    "*Alone*: how much worse the reference gets when this layer alone is compressed. *Mended*: how much better the "
    "compressed network gets when this layer alone is exact. Both with 95 % intervals from a paired bootstrap over "
    "items; layers do not add up, as errors meet."
)
_STUDY = (
    "All runs are judged on the same items. *Retained* is above chance, with 95 % intervals from a paired bootstrap. A "
    "stage that is *not used* was turned down by the gate, and the result is what the stages before and after it "
    "make; where a result is larger its score may be better for that alone."
)
_COMPARED = (
    "Difference: above 0 is better than *{against}*, whatever the measure's direction; 95 % intervals are of one "
    "comparison each, p is of a paired bootstrap, corrected by Holm over all {count} rows. d: mean of the items' "
    "differences in their standard deviations; delta: share of items that got better less that of those that "
    "got worse."
)


def tell_subspaces(
    weights: Sequence[WeightSubspaces], inputs: Sequence[LayerInputs], what: str, command: str
) -> Result:
    """Subspaces of weights and activations."""
    from fulgurite.analysis.plots import plot_subspaces

    by_name = {one.name: one for one in inputs}
    header = ["weight", "k", "overlap: outputs", "inputs", "chance", "angle: outputs", "inputs", "error"]
    header += ["activations: k", "overlap", "chance", "CKA"]
    rows = []
    for one in weights:
        seen = by_name.get(one.name)
        cells = [
            one.name,
            str(one.left.rank),
            format_percent(one.left.overlap),
            format_percent(one.right.overlap),
            format_percent(one.right.chance),
            f"{one.left.mean_degrees:.1f}°",
            f"{one.right.mean_degrees:.1f}°",
            format_percent(one.error),
        ]
        if seen is None:
            cells += [UNKNOWN] * 4
        else:
            near = seen.subspaces
            cells += [str(near.rank), format_percent(near.overlap), format_percent(near.chance)]
            cells.append(UNKNOWN if math.isnan(seen.cka) else f"{seen.cka:.4f}")
        rows.append(cells)
    facts = {
        "weights": [
            {
                "name": one.name,
                "energy": one.energy,
                "error": one.error,
                "left": one.left.to_dict(),
                "right": one.right.to_dict(),
            }
            for one in weights
        ],
        "inputs": [
            {
                "name": one.name,
                "count": one.count,
                "cka": one.cka,
                "error": one.error,
                **one.subspaces.to_dict(),
            }
            for one in inputs
        ],
    }
    return Result(
        name="subspaces",
        title="Subspaces",
        lead=f"{what}. {_SUBSPACES}",
        tables=[Rows(header, rows, [False, *[True] * 11])],
        facts=facts,
        figure=plot_subspaces((weights, inputs)),
        alt="Overlap of each weight's subspaces with the reference's",
        command=command,
    )


def tell_sensitivity(found: Sensitivities, what: str, command: str) -> Result:
    """Sensitivity of each layer, the costliest first."""
    from fulgurite.analysis.plots import plot_sensitivity

    unit = found.reference.unit
    layers = sorted(found.layers, key=lambda one: -one.alone.point)
    rows = [
        [one.name, f"{one.num_weights:,}", _interval(one.alone, unit), _interval(one.mended, unit)]
        for one in layers
    ]
    name = found.reference.name.replace("_", " ")
    lead = (
        f"{what}. Measure: {name}, {format_score(found.reference.value, unit)} in the reference and "
        f"{format_score(found.compressed.value, unit)} in the compressed network over {found.reference.items.size} "
        f"items. {_SENSITIVITY}"
    )
    facts = {
        "measure": found.reference.name,
        "unit": unit,
        "items": int(found.reference.items.size),
        "reference": found.reference.value,
        "compressed": found.compressed.value,
        "damage": asdict(found.damage),
        "layers": [asdict(one) for one in layers],
    }
    return Result(
        name="sensitivity",
        title="Sensitivity",
        lead=lead,
        tables=[Rows(("layer", "weights", "alone", "mended"), rows, [False, True, True, True])],
        facts=facts,
        figure=plot_sensitivity(found),
        alt="What each layer's compression costs alone, and what mending it would win",
        command=command,
    )


def tell_sparsity(sides: Sequence[tuple[str, Sequence[WeightSparsity]]], what: str, command: str) -> Result:
    """Zeros of each weight in one network or two, as the columns' names say."""
    first = sides[0][1]
    header = ["weight", "shape"]
    for label, found in sides:
        header += [f"{label}: zeros", *found[0].patterns]
    rows = []
    for place, one in enumerate(first):
        cells = [one.weight, "x".join(map(str, one.shape))]
        for _, found in sides:
            shares = [found[place].zeros, *found[place].patterns.values()]
            cells += [UNKNOWN if share is None else format_percent(share) for share in shares]
        rows.append(cells)
    return Result(
        name="sparsity",
        title="Sparsity",
        lead=f"{what}. Share of weights that are zero; of N:M the share of groups that keep the pattern, of blocks the "
        "share that is used.",
        tables=[Rows(header, rows, [False, False, *[True] * (len(header) - 2)])],
        facts={label: [asdict(one) for one in found] for label, found in sides},
        command=command,
    )


def tell_profiles(sides: Sequence[tuple[str, Profile]], what: str, command: str) -> Result:
    """Operators of a forward pass."""
    tables = []
    for label, found in sides:
        rows = [
            [
                one.name,
                f"{one.calls:g}",
                f"{one.self_ms:.3f}",
                f"{one.device_ms:.3f}" if one.device_ms else UNKNOWN,
                format_percent(one.share),
                format_bytes(one.self_bytes) if one.self_bytes > 0 else "0 B",
            ]
            for one in found.operators
        ]
        head = (f"{label}: operator", "calls", "own ms", "device ms", "share", "memory")
        note = (
            f"{found.total_ms:.2f} ms a pass on {found.device} with {found.threads} threads, over {found.passes} "
            f"passes; {found.others} further operators are left out."
        )
        tables.append(Rows(head, rows, [False, *[True] * 5], note))
    return Result(
        name="profile",
        title="Profile",
        lead=f"{what}. Time in each operator without those that it calls, and the memory that it takes and keeps, in a "
        "mean pass; the profiler itself takes time, most of all from many small operators.",
        tables=tables,
        facts={label: found.to_dict() for label, found in sides},
        command=command,
    )


def tell_study(study: Study, what: str, command: str) -> Result:
    """Variants, and how they differ from the recipe as it is."""
    from fulgurite.analysis.plots import plot_study

    first = study.outcomes[0]
    names = list(first.reference)
    rows = []
    for one in study.outcomes:
        kept = one.retention()
        cells = [one.variant.label, ", ".join(one.rejected) or UNKNOWN]
        cells += [format_bytes(one.num_bytes), format_ratio(one.ratio)]
        for name in names:
            score = format_score(one.measures[name].value, one.measures[name].unit)
            interval = kept.get(name)
            cells.append(score if interval is None else f"{score}: {_percent(interval)}")
        rows.append(cells)
    head: tuple[str, ...] = ("stages" if study.kind == "order" else "variant", "not used", "bytes", "ratio")
    head += tuple(f"{name.replace('_', ' ')}, retained" for name in names)
    tables = [
        Rows(head, rows, [False, False, *[True] * (2 + len(names))]),
        comparison_rows(study.comparisons, first.variant.label),
    ]
    reasons = [
        f"{one.variant.label}: {stage} {reason}"
        for one in study.outcomes
        for stage, reason in one.rejected.items()
    ]
    closing = ["Not used:\n\n" + "\n".join(f"- {reason}" for reason in reasons)] if reasons else []
    return Result(
        name=study.kind,
        title="Ablation" if study.kind == "ablation" else "Order of stages",
        lead=f"{what}. {_STUDY}",
        tables=tables,
        facts=study.to_dict(),
        figure=plot_study(study),
        alt="What each variant retains over its bytes",
        command=command,
        closing=closing,
    )


def comparison_rows(comparisons: Sequence[Comparison], against: str) -> Rows:
    """A table of paired comparisons with one network."""
    rows = [
        [
            one.name,
            one.measure.replace("_", " "),
            _signed(Interval(one.difference, one.low, one.high), one.unit),
            UNKNOWN if one.p_holm is None else f"{one.p_holm:.4f}",
            UNKNOWN if one.cohens_d is None else f"{one.cohens_d:+.2f}",
            UNKNOWN if one.cliffs_delta is None else f"{one.cliffs_delta:+.2f}",
            ("better" if one.difference > 0 else "worse") if one.significant else "no difference seen",
        ]
        for one in comparisons
    ]
    header = ("against " + against, "measure", "difference", "p (Holm)", "d", "delta", "verdict")
    note = _COMPARED.format(against=against, count=len(rows))
    return Rows(header, rows, [False, False, True, True, True, True, False], note)


def _interval(interval: Interval, unit: str) -> str:
    return _signed(interval, unit)


def _signed(interval: Interval, unit: str) -> str:
    if not math.isfinite(interval.point):
        return UNKNOWN
    if unit == "%":
        point, low, high = (100 * value for value in (interval.point, interval.low, interval.high))
        return f"{point:+.2f} points [{low:+.2f}, {high:+.2f}]"
    return f"{interval.point:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}]"


def _percent(interval: Interval) -> str:
    point, low, high = (100 * value for value in (interval.point, interval.low, interval.high))
    return f"{point:.1f} % [{low:.1f}, {high:.1f}]"
