"""The anomaly scores of families with a latent space: the latent positions of the training items, distances to them, terms and rules."""
