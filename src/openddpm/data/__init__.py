"""Data source -> decoded once into a uint8 store -> batches as a function of position."""
