"""Verification of a run: its record beside what its options produce when parts of it are computed again."""
