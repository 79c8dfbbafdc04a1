r"""Captions as their scores count them: Penn Treebank tokens in lower case, without punctuation.

    captions -> PTBTokenizer of Stanford CoreNLP (in pycocoevalcap, where Java is) -\
            \-> the same rules as a regular expression -----------------------------+-> minus punctuation -> words

The rules are those of https://nlp.stanford.edu/software/tokenizer.html as far as captions need them: contractions
apart (``is n't``, ``dog 's``), compounds and numbers whole (``t-shirt``, ``1,000``), abbreviations with their full
stop. Rarer forms may come out otherwise than from Java, so that networks are to be compared on one kind of machine.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from fulgurite.evaluation.benchmarks.extras import import_extra

_JAR = "stanford-corenlp-3.4.1.jar"
_PUNCTUATION = frozenset(
    ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"]
)  # as COCO's captioning scores leave out; brackets come in lower case, and so stay
_SPELLED = {
    **{"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"},
    **{"£": "#", "€": "$", "¢": "cents", "½": "1/2", "¼": "1/4", "¾": "3/4"},
    **{quote: "''" for quote in '"“”«»'},
    **{quote: "'" for quote in "‘’`"},
    **dict.fromkeys("–—", "--"),
    "…": "...",
}
_SHORT = "mr|mrs|ms|dr|prof|st|mt|ave|blvd|rd|jr|sr|vs|etc|inc|corp|ltd|jan|feb|aug|sept|oct|nov|dec|ft"
_RUN = re.compile(r"\.{2,}|-{2,}")
_TOKEN = re.compile(
    rf"""
      (?:https?://|www\.)[^\s,;]*[^\s,;.!?]                  # addresses
    | [\w.+-]+@[\w-]+(?:\.\w+)+
    | (?<!\w)(?:can(?=not\b)|(?:gon|wan)(?=na\b)|got(?=ta\b)|gim(?=me\b)|lem(?=me\b)|['’]t(?=(?:is|was)\b))
    | ph\.d\.
    | (?<!\w)(?:[^\W\d_]\.)+(?:[^\W\d_](?!\w))?               # u.s.
    | (?<!\w)(?:{_SHORT})\.                                  # mr.
    | ['’](?:s|m|d|re|ve|ll)\b | n['’]t\b                     # what is left of is, not, ...
    | ['’]\d\ds\b                                             # '80s
    | o['’]clock\b | ma['’]am\b | (?<!\w)['’]n['’](?!\w)
    | (?-i:[A-Z]+&[A-Z]+)                                     # at&t
    | (?<!\w)[+-]?\.?\d+(?:[.,:/-]\d+)*(?:-?[^\W\d_]+(?:-\w+)*)?    # 1,000 10:30 2-year-old 3x
    | \w+?(?=n['’]t\b)                                        # the "is" of "isn't"
    | \w+(?:[-/]\w+)*                                         # words and compounds
    | \#[^\W\d]\w* | @\w+
    | [?!]{{2,}} | \.{{2,}} | -+ | ''|``
    | \S
    """,
    re.VERBOSE | re.IGNORECASE,
)


def find_java() -> str | None:
    """Path of the Java that is called, or ``None`` where there is none."""
    return shutil.which("java")


def tokenize_captions(captions: Sequence[str], java: bool | None = None) -> list[str]:
    """Words of each caption, joined by single spaces.

    Args:
        captions: As people or networks wrote them.
        java: Whether Stanford's tokenizer is used; by default where Java is found.

    Raises:
        ImportError: If Java is to be used and pycocoevalcap is not installed.
        RuntimeError: If Java fails; says what it said.
    """
    # line ends of any kind would shift all later captions to the wrong pictures
    lines = [" ".join(caption.split()) for caption in captions]
    use_java = find_java() is not None if java is None else java
    told = [line for line in lines if line]
    tokens = iter(_by_java(told) if use_java else [_TOKEN.findall(line) for line in told])
    return [_words(next(tokens)) if line else "" for line in lines]


def _words(tokens: Sequence[str]) -> str:
    joined = (_RUN.sub(lambda run: "..." if run[0][0] == "." else "--", token) for token in tokens)
    spelled = (_SPELLED.get(token, token.lower().replace("’", "'")) for token in joined)
    return " ".join(token for token in spelled if token not in _PUNCTUATION and _is_known(token))


def _is_known(token: str) -> bool:
    """Pictographs beyond the 16-bit plane are no tokens to a program of its age."""
    return any(ord(letter) < 1 << 16 for letter in token)


def _by_java(lines: Sequence[str]) -> list[list[str]]:
    """Tokens of lines of text by the jar that pycocoevalcap has.

    Its own class writes a temporary file beside the jar, where users may not write, and its remarks to the screen.
    """
    if not lines:
        return []
    folder = Path(import_extra("pycocoevalcap.tokenizer.ptbtokenizer").__file__).parent
    command = [
        *(find_java() or "java", "-cp", str(folder / _JAR), "edu.stanford.nlp.process.PTBTokenizer"),
        *("-preserveLines", "-lowerCase", "-encoding", "UTF-8"),
    ]
    try:
        done = subprocess.run(command, input="\n".join(lines).encode(), capture_output=True, check=False)
    except OSError as error:
        raise RuntimeError(f"{command[0]}: expected Java to run, found {error}") from error
    found = done.stdout.decode(errors="replace").split("\n")
    found = found[:-1] if found and not found[-1] else found
    if done.returncode or len(found) != len(lines):
        said = done.stderr.decode(errors="replace").strip()[-500:]
        raise RuntimeError(
            f"{command[0]}: expected {len(lines)} captions in tokens, found {len(found)} "
            f"and exit status {done.returncode}: {said}"
        )
    return [line.split() for line in found]
