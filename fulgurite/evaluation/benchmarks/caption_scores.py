r"""Scores of captions against those of people, by pycocoevalcap.

    words written, words of references -> CIDEr and ROUGE-L per picture, BLEU over all
                                       \-> METEOR, SPICE over all (Java)

References: Vedantam et al., "CIDEr", CVPR 2015, https://arxiv.org/abs/1411.5726; Lin, "ROUGE", 2004,
https://aclanthology.org/W04-1013; Papineni et al., "BLEU", ACL 2002, https://aclanthology.org/P02-1040; Denkowski and
Lavie, "Meteor Universal", 2014, https://aclanthology.org/W14-3348; Anderson et al., "SPICE", ECCV 2016,
https://arxiv.org/abs/1607.08822.
"""

from __future__ import annotations

import contextlib
import io
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fulgurite.evaluation.benchmarks.caption_tokens import find_java
from fulgurite.evaluation.benchmarks.extras import import_extra

_PACKAGE = "pycocoevalcap"
_SPICE_JARS = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")


@dataclass(frozen=True)
class CaptionScores:
    """How good captions are.

    Args:
        cider: Of each picture, 0 to 10, ``[n]``; documents are these pictures' references.
        rouge_l: Of each picture, 0 to 1, ``[n]``.
        bleu: With n-grams up to 1, 2, 3 and 4, over all pictures.
    """

    cider: NDArray[np.float64]
    rouge_l: NDArray[np.float64]
    bleu: tuple[float, ...]


def score_captions(written: Sequence[str], references: Sequence[Sequence[str]]) -> CaptionScores:
    """Score captions.

    Args:
        written: Words of a caption of each picture, as ``tokenize_captions`` gives them.
        references: Those of people, one or more a picture.

    Raises:
        ImportError: If pycocoevalcap is not installed.
        ValueError: If no reference has a word.
    """
    if not any(words for some in references for words in some):
        raise ValueError("references must have words, got none but empty ones")
    known, said = _by_place(written, references)
    scorers = [import_extra(f"{_PACKAGE}.{name}") for name in ("cider.cider", "rouge.rouge", "bleu.bleu")]
    with _quiet():
        _, cider = scorers[0].Cider().compute_score(known, said)
        _, rouge = scorers[1].Rouge().compute_score(known, said)
        bleu, _ = scorers[2].Bleu(4).compute_score(known, said, verbose=0)
    return CaptionScores(np.asarray(cider, float), np.asarray(rouge, float), tuple(map(float, bleu)))


def missing_for_meteor() -> str | None:
    """Why METEOR cannot be computed here; ``None`` if it can."""
    return _missing("meteor.meteor", ("meteor-1.5.jar", "data/paraphrase-en.gz"))


def missing_for_spice() -> str | None:
    """Why SPICE cannot be computed here; ``None`` if it can. Its models are not in the package, and not fetched."""
    return _missing("spice.spice", ("spice-1.0.jar", *(f"lib/{name}" for name in _SPICE_JARS)))


def meteor_score(written: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """METEOR over all pictures, 0 to 1; arguments as of ``score_captions``.

    Raises:
        ImportError: If pycocoevalcap is not installed.
        RuntimeError: If Java or the jar is missing, or Java fails.
    """
    _need("METEOR", missing_for_meteor())
    known, said = _by_place(written, references)
    scorer = import_extra(f"{_PACKAGE}.meteor.meteor").Meteor()
    process = scorer.meteor_p
    try:
        score, _ = scorer.compute_score(known, said)
    except (OSError, ValueError) as error:  # it has died: a pipe is broken, or a line of numbers empty
        process.kill()
        message = process.stderr.read().decode(errors="replace").strip()[-500:]
        raise RuntimeError(f"METEOR: expected a score from Java, found {error}: {message}") from error
    finally:
        process.stdin.close()
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()
    return float(score)


def spice_score(written: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """SPICE over all pictures, 0 to 1; arguments as of ``score_captions``.

    Raises:
        ImportError: If pycocoevalcap is not installed.
        RuntimeError: If Java or a jar is missing, or Java fails.
    """
    _need("SPICE", missing_for_spice())
    known, said = _by_place(written, references)
    try:
        with _quiet():
            score, _ = import_extra(f"{_PACKAGE}.spice.spice").Spice().compute_score(known, said)
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        raise RuntimeError(f"SPICE: expected a score from Java, found {error}") from error
    return float(score)


def _by_place(
    written: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    """The form that the library's scorers take."""
    known = {place: list(some) for place, some in enumerate(references)}
    return known, {place: [words] for place, words in enumerate(written)}


def _missing(module: str, files: Sequence[str]) -> str | None:
    if find_java() is None:
        return "no Java is found"
    folder = Path(import_extra(f"{_PACKAGE}.{module}").__file__).parent
    absent = [name for name in files if not (folder / name).is_file()]
    return f"{_PACKAGE} comes without {', '.join(absent)}" if absent else None


def _need(what: str, missing: str | None) -> None:
    if missing is not None:
        raise RuntimeError(f"{what} needs Java and its jars, but {missing}")


@contextlib.contextmanager
def _quiet() -> Iterator[Any]:
    """The library prints as it goes."""
    with contextlib.redirect_stdout(io.StringIO()) as swallowed:
        yield swallowed
