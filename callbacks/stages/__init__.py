"""Stages: callbacks that compress."""
