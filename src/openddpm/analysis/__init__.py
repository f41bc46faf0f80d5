"""Reads run folders and explains them. Imports no torch."""
