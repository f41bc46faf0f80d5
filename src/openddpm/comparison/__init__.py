"""Comparison of a run with the runs of a reference, from their records alone."""
