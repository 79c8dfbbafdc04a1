"""Carry out a structural stage in a try's folder, or find that an earlier start has.

try folder -> built.json there?  yes: its facts       no: stage.build -> network/ -> built.json
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from callbacks.stages.structure import StructuralStage, Work
from fulgurite.artifact.files import write_file

if TYPE_CHECKING:
    from callbacks.cascade_run import CascadeRun

NETWORK_NAME = "network"
"""Folder of what a structural stage has made, in a try's."""

_SCRATCH_NAME = "scratch"
_BUILT_NAME = "built.json"  # written last: the network is whole where it is there


def build_network(
    run: CascadeRun, index: int, name: str, stage: StructuralStage, folder: Path
) -> dict[str, Any]:
    """Let the stage make its network, on this rank alone.

    Args:
        run: Whose subject is replaced.
        index: Place of the stage in the cascade.
        name: Of the stage.
        stage: The stage.
        folder: Of the try.

    Returns:
        What the stage tells of it.
    """
    built = folder / _BUILT_NAME
    if not built.exists():
        scratch = folder / _SCRATCH_NAME
        scratch.mkdir(parents=True, exist_ok=True)
        with run.console.building(index, name) as progress:
            work = Work(
                subject=run.module,
                reference=run.reference.module,
                datamodule=run.datamodule,
                folder=scratch,
                device=run.device,
                cache=Path(run.cascade.cache_dir),
                progress=progress,
                check=run.stop.check,
            )
            facts = stage.build(work, folder / NETWORK_NAME)
        write_file(built, json.dumps(dict(facts), indent=1).encode())
    # of no use any more; a start that was killed here may have left it
    shutil.rmtree(folder / _SCRATCH_NAME, ignore_errors=True)
    found: dict[str, Any] = json.loads(built.read_text())
    return found
