"""The one place that builds networks and names their weights."""
