"""Anomaly scores of any family that places items in a latent space: where the training items lie, distances to them, terms and rules."""
