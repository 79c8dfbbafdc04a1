"""The one line that a failed command says, and a cascade that most of them are shown with."""

from __future__ import annotations

from typing import Any

import pytest

Capture = pytest.CaptureFixture[str]

LONGEST = 400  # characters of a sentence that is still read; a path of pytest takes a third of it


def eight(**settings: Any) -> dict[str, Any]:
    codec = {"class_path": "UniformCodec", "init_args": {"bits": 8, "group_size": 32}}
    return {"stages": {"eight": {"codec": codec, "min_retention": 0.5, **settings}}}


def sentence(capsys: Capture) -> str:
    """The one line on standard error."""
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    assert len(lines[0]) < LONGEST, lines[0]
    for leaked in ("Traceback", "Union subtypes", "Namespace(", "--debug"):
        assert leaked not in lines[0]
    return lines[0]
