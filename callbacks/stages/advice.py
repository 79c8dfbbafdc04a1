"""What is to be changed in a stage that a gate rejected."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Advice:
    """Changes, before they are put into a stage's own settings.

    Args:
        severe: Take the codec's large step and not its small one.
        everywhere: Take it for all weights of the stage.
        focus: Names of weights that take the large step, beyond what all take.
        focus_name: What they are, in words.
        protect: Names of weights to give 8 bits from now on.
        longer: Refine twice as long, where the stage refines.
    """

    severe: bool
    everywhere: bool = True
    focus: tuple[str, ...] = ()
    focus_name: str = ""
    protect: tuple[str, ...] = ()
    longer: bool = False
