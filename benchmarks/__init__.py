"""Measure langedit against a straightforward implementation, and how its cost grows."""
