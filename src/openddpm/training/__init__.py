"""Trains a diffusion model and writes its record."""
