"""What a reader looks at instead of figures: what the reference and the result make of the same inputs.

reference, artefact as a user would load it -> samples of text, pictures with their small copies -> record
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from callbacks.thumbnails import pictures_record
from lightning_modules.compressible import ShowsPictures

if TYPE_CHECKING:
    from callbacks.cascade_run import CascadeRun


def examples(run: CascadeRun) -> tuple[list[dict[str, str]], dict[str, Any] | None]:
    """The record's ``samples`` and ``pictures``; no pictures where the network reads none.

    Args:
        run: A run with a result, in what rank 0 leads.
    """
    reference, prompts = run.reference, run.cascade.prompts
    run.read_as(reference)
    before = reference.module.samples(run.devices.network(reference.network), run.datamodule, prompts)
    run.read_as(run.subject)
    compressed = run.devices.network(run.folder.artifact)
    after = run.module.samples(compressed, run.datamodule, prompts)
    samples = [
        {"prompt": prompt, "reference": old, "artifact": new}
        for (prompt, old), (_, new) in zip(before, after, strict=True)
    ]
    return samples, _pictures(run, compressed)


def _pictures(run: CascadeRun, compressed: Any) -> dict[str, Any] | None:
    if not isinstance(run.module, ShowsPictures):
        return None
    datamodule: Any = run.datamodule
    with run.console.evaluating("pictures", 2 * int(run.data["windows"])) as progress:

        def advance(done: int) -> None:
            progress(done)
            run.stop.check()

        comparison = run.module.pictures(
            compressed,
            run.reference.module,
            datamodule,
            limit=run.cascade.limit_windows,
            progress=advance,
        )
    if comparison is None:
        return None
    return pictures_record(comparison, datamodule.evaluation(), run.folder.path)
