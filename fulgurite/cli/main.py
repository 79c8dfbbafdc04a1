"""The ``fulgurite`` command: finds the verb, runs it, turns failures into one sentence and an exit status.

Exit status: 0 done, and for ``compress`` an artefact was accepted; 1 a failure; 2 wrong usage; 3 every stage was
rejected, the reference is intact; 130 stopped by the user or the cluster, ready to go on.

Verbs are imported when they are called: ``inspect`` answers without importing torch.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType

from fulgurite._version import __version__
from fulgurite.processes import RankError

VERBS = {
    "fit": ("train a network", "fulgurite.cli.lightning"),
    "compress": ("make a trained network small, under a quality gate", "fulgurite.cli.lightning"),
    "validate": ("measure a network on held-out data, by its LightningModule", "fulgurite.cli.lightning"),
    "test": ("the same on test data", "fulgurite.cli.lightning"),
    "predict": ("let a network answer", "fulgurite.cli.lightning"),
    "evaluate": ("score an artefact or a network, against a reference if given", "fulgurite.cli.evaluate"),
    "inspect": ("what lies in an artefact, and is it whole", "fulgurite.cli.inspect"),
    "report": ("write a run's report again from its record", "fulgurite.cli.report"),
    "compare": ("what some runs came to, side by side", "fulgurite.cli.compare"),
    "checkpoints": (
        "the stages that a run keeps; make one of them the result again",
        "fulgurite.cli.checkpoints",
    ),
    "analyze": (
        "a network beside its compressed form; what each stage of a recipe does",
        "fulgurite.cli.analyze",
    ),
    "features": ("what layers of a network put out, as a table", "fulgurite.cli.features"),
    "diagnose": ("errors and codebooks of a trained VQ-VAE, by category", "fulgurite.cli.diagnose"),
    "search": ("trials over the keys of a recipe, for the best of them or a front", "fulgurite.cli.search"),
}

_USAGE = """usage: fulgurite VERB [options]     fulgurite VERB --help

{verbs}

  fulgurite fit --config configs/recipes/quickstart_fit.yaml
  fulgurite compress --config configs/recipes/books6m.yaml --output_dir runs/books6m
  fulgurite inspect runs/books6m/artifact

--debug shows where an error comes from; --version the version. Exit status: 0 done, 1 failed, 2 wrong usage,
3 every stage was rejected, 130 stopped.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        arguments: As they stand on the command line after ``fulgurite``; ``sys.argv`` by default.

    Returns:
        The exit status.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = [argument for argument in given if argument != "--debug"]
    if not given or given[0] in ("-h", "--help", "help"):
        width = max(map(len, VERBS))
        print(
            _USAGE.format(verbs="\n".join(f"  {verb:<{width}}  {text}" for verb, (text, _) in VERBS.items()))
        )
        return 0 if given else 2
    if given[0] == "--version":
        print(f"fulgurite {__version__}")
        return 0
    if given[0] not in VERBS:
        return _fail(f"unknown verb {given[0]!r}; known are {', '.join(VERBS)}", 2)
    signal.signal(signal.SIGINT, _stop_importing)
    try:
        return int(importlib.import_module(VERBS[given[0]][1]).run(given[0], given[1:]))
    except SystemExit as end:  # argparse: it has printed its sentence
        return end.code if isinstance(end.code, int) else 2
    except KeyboardInterrupt:
        return _fail("stopped", 130)
    except BrokenPipeError:  # the reader of our output has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if int(os.environ.get("LOCAL_RANK", "0")) > 0 and not debug and not isinstance(error, RankError):
            return 1  # the first process says the same
        if debug or os.environ.get("FULGURITE_DEBUG"):
            traceback.print_exc()
        return _fail(sentence(error), 2 if isinstance(error, UsageError) else 1)


class UsageError(ValueError):
    """The command line or the recipe is wrong."""


def sentence(error: BaseException) -> str:
    """An error in one line: what we raise says it all, what others raise is named by its type."""
    text = " ".join(str(error).split()) or "no message"
    if isinstance(error, RankError):
        return text
    if isinstance(error, ValueError | OSError) and not isinstance(error, UnicodeError):
        return text
    return f"{type(error).__name__}: {text} (--debug shows where)"


def _stop_importing(number: int, frame: FrameType | None) -> None:
    os.write(2, b"error: stopped\n")
    os._exit(130)  # an import cut short cannot be taken up again


def _fail(text: str, status: int) -> int:
    print(f"error: {text}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
