"""Training of a diffusion model, and its record."""
