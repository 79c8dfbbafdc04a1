"""Measures of quality, and the statistics that a gate decides by."""
