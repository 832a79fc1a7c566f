"""Measurements: `python -m bench.NAME` prints a table and a line of JSON."""
