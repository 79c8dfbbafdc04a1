r"""The published form of a record: checked against a value, and told as a page.

record.schema.json -> check_record -> the first thing that is wrong
                   \-> schema_markdown -> docs/record.md
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonschema import ValidationError

SCHEMA_PATH = Path(__file__).with_name("record.schema.json")
RECORD_VERSION = "fulgurite-record/1"

_INTRODUCTION = f"""# The record of a run

Every run leaves `record.json` in its output folder: one JSON document, UTF-8, that holds all that the
tables, the plots and the report show. Its form is `{RECORD_VERSION}`, published as JSON schema in
`fulgurite/reporting/record.schema.json` and checked whenever a record is written or read. The file is
replaced as a whole, so a reader finds the old record or the new one, never half of one.

Bytes are bytes. A ratio is uncompressed / compressed. A retention is a fraction: 1 is as good as the
reference, 0 is chance. Times are in seconds. A number that is missing, infinite or NaN is `null`. Readers
must accept unknown keys at the top level and in `environment`; elsewhere there are none but those listed.

```python
from fulgurite.reporting import read_record, write_report

record = read_record("runs/books6m/record.json")
print(record["level"], record["artifact"]["num_bytes"])
write_report("runs/books6m")  # report.md, report.html and plots/, from the record and its thumbnails alone
```
"""

_EVENTS = """
## events.jsonl

Beside the record lies `events.jsonl`, the history of the run: one JSON object a line, written as things
happen and never rewritten. A resumed run appends to it. Where a run was killed in the middle of a line,
readers leave that line out, and the next writer removes it.

| key | type | meaning |
| --- | --- | --- |
| `time` | string | When it happened, ISO 8601, UTC. |
| `event` | string | What happened. |
| others | any | What belongs to the event, such as `stage`. |
"""


@cache
def load_schema() -> dict[str, Any]:
    """The JSON schema of ``record.json``; treat it as read-only."""
    schema: dict[str, Any] = json.loads(SCHEMA_PATH.read_text(encoding="utf-8"))
    return schema


def check_record(record: Mapping[str, Any], where: str = "record") -> None:
    """Check a record against the schema, then for statements that contradict each other.

    Args:
        record: What ``json.load`` gives.
        where: How errors call the record, usually its path.

    Raises:
        ValueError: Names the first offending key, what was expected and what was found.
    """
    from jsonschema import Draft202012Validator  # in the extra [train]

    errors = Draft202012Validator(load_schema()).iter_errors(record)
    first = min(errors, key=lambda error: [str(part) for part in error.absolute_path], default=None)
    if first is not None:
        raise ValueError(f"{where}: {_sentence(first)}")
    accepted = [stage["name"] for stage in record["stages"] if stage["accepted"]]
    level, why = accepted[-1] if accepted else "reference", "the last accepted stage"
    if (restored := record.get("restored")) is not None:
        level, why = restored["stage"], "the stage that was restored"
    if record["level"] != level:
        raise ValueError(f"{where}: level must be {level!r}, {why}, got {record['level']!r}")
    artifact = record["artifact"]
    if record["success"] and artifact is None:
        raise ValueError(f"{where}: success must be false where artifact is null, got true")
    if artifact is not None and (total := sum(artifact["parts"].values())) != artifact["num_bytes"]:
        raise ValueError(
            f"{where}: artifact.parts must add up to artifact.num_bytes {artifact['num_bytes']}, got {total}"
        )
    confusion = record.get("pictures", {}).get("confusion")
    for side in ("before", "after") if confusion is not None else ():
        count, lengths = len(confusion["classes"]), [len(row) for row in confusion[side]]
        if lengths != [count] * count:
            raise ValueError(
                f"{where}: pictures.confusion.{side} must have a row and a column for each of {count} classes, "
                f"got rows of {lengths}"
            )


def _sentence(error: ValidationError) -> str:
    """What one schema violation means: key, expected, got."""
    key = _key(error.absolute_path) or "the record"
    expected: Any = error.validator_value
    given: Any = error.instance
    if error.validator == "required":
        missing = next(name for name in expected if name not in given)
        return f"{key} must have the key {missing!r}, got {', '.join(sorted(given)) or 'none'}"
    if error.validator == "additionalProperties" and isinstance(given, dict):
        known = error.schema["properties"] if isinstance(error.schema, dict) else {}
        unknown = sorted(set(given) - set(known))
        return f"{key} must have no keys but {', '.join(known)}, got {', '.join(unknown)}"
    wanted = {
        "type": lambda: _alternatives(expected),
        "const": lambda: repr(expected),
        "enum": lambda: " or ".join(map(repr, expected)),
        "minimum": lambda: f"at least {expected}",
        "pattern": lambda: f"text like {expected}",
    }
    found = json.dumps(given, ensure_ascii=False)
    found = found if len(found) <= 80 else found[:77] + "..."
    return f"{key} must be {wanted.get(str(error.validator), lambda: str(expected))()}, got {found}"


def _key(path: Iterator[str | int] | Any) -> str:
    """Spell a path as code does: ``stages[0].tries[1].gate``."""
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return key.removeprefix(".")


def _alternatives(kinds: str | list[str]) -> str:
    return kinds if isinstance(kinds, str) else " or ".join(kinds)


def schema_markdown() -> str:
    """The page ``docs/record.md``: every key of the record with its type and meaning.

    Regenerate it with
    ``python -c 'from fulgurite.reporting import *; print(schema_markdown(), end="")' > docs/record.md``.
    """
    schema = load_schema()
    parts = [_INTRODUCTION, "\n## Top level\n\n", *_table(schema)]
    for name in (
        "environment",
        "model",
        "data",
        "reference",
        "artifact",
        "efficiency",
        "samples",
        "pictures",
        "restored",
        "peers",
    ):
        inner = schema["properties"][name]
        inner = inner.get("items", inner)
        parts += [f"\n## {name}\n\n", *_table(inner)]
    titles = {"stage": "stages[]", "try": "stages[].tries[]", "gate": "stages[].tries[].gate"}
    titles |= {"measure": "stages[].tries[].gate.per_measure[]", "layer": "stages[].tries[].layers[]"}
    titles |= {"check": "stages[].tries[].checks[]"}
    titles |= {"efficiency": "efficiency.reference, efficiency.artifact"}
    titles |= {"retrieved": "pictures.retrieved[]", "found": "pictures.retrieved[].before[], after[]"}
    titles |= {"caption": "pictures.captions[]"}
    for name, title in titles.items():
        parts += [f"\n## {title}\n\n", *_table(schema["$defs"][name])]
    return "".join([*parts, _EVENTS])


def _table(schema: Mapping[str, Any]) -> Iterator[str]:
    """Rows for the keys of one object; those of objects without a heading of their own follow indented."""
    yield f"{schema['description']}\n\n| key | type | meaning |\n| --- | --- | --- |\n"
    yield from _rows(schema, "", top="$schema" in schema)


def _rows(schema: Mapping[str, Any], prefix: str, top: bool) -> Iterator[str]:
    for key, value in schema["properties"].items():
        meaning = (
            value["description"] if key in schema.get("required", ()) else value["description"] + " Optional."
        )
        yield f"| `{prefix}{key}` | {_type(value)} | {meaning.replace('|', chr(92) + '|')} |\n"
        inner, step = value, f"{prefix}{key}."
        if isinstance(value.get("additionalProperties"), dict):
            inner, step = value["additionalProperties"], f"{prefix}{key}.*."
        if "properties" in value.get("items", {}):
            inner, step = value["items"], f"{prefix}{key}[]."
        if "properties" in inner and not top:  # at the top level each object has its own heading
            yield from _rows(inner, step, top=False)


def _type(schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        return _type(load_schema()["$defs"][schema["$ref"].rsplit("/", 1)[-1]])
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return " or ".join("null" if choice is None else f"`{choice}`" for choice in schema["enum"])
    if schema["type"] == "array":
        return f"list of {_type(schema['items'])}"
    return _alternatives(schema["type"])
