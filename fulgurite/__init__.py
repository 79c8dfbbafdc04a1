"""Compress trained networks to the fewest bytes that still pass a quality gate."""
