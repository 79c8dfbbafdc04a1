"""Records, tables, plots and pages of a run."""

from fulgurite.reporting.events import EVENTS_NAME, EventLog, read_events
from fulgurite.reporting.record import RECORD_NAME, json_ready, read_record, write_record
from fulgurite.reporting.report import write_report
from fulgurite.reporting.schema import RECORD_VERSION, check_record, load_schema, schema_markdown
from fulgurite.reporting.table import (
    ComparisonRow,
    comparison_rows,
    markdown_table,
    plain_table,
    render_table,
)

__all__ = [
    "EVENTS_NAME",
    "RECORD_NAME",
    "RECORD_VERSION",
    "ComparisonRow",
    "EventLog",
    "check_record",
    "comparison_rows",
    "json_ready",
    "load_schema",
    "markdown_table",
    "plain_table",
    "read_events",
    "read_record",
    "render_table",
    "schema_markdown",
    "write_record",
    "write_report",
]
