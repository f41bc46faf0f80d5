"""Evaluation of weights in training: held-out loss beside baselines, previews, statistics of samples."""
