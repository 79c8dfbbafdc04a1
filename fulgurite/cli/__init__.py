"""The `fulgurite` command."""
