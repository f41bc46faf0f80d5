"""Observers of a run in training: the terminal, trackers, the report, the Hub."""
