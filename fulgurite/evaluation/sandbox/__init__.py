"""Programs that a network writes, run where they can do no harm.

program -> find_sandbox() -> Sandbox.run -> Outcome
"""

from fulgurite.evaluation.sandbox.sandbox import Limits, Outcome, Sandbox, SandboxUnavailable, find_sandbox

__all__ = ["Limits", "Outcome", "Sandbox", "SandboxUnavailable", "find_sandbox"]
