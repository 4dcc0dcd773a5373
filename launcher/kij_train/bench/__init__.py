"""Sweeps of a collective over numbers of nodes: measure, report, compare, plot."""
