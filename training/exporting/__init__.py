"""The steps from a trained model to a published artifact. `manifold.training.export` runs them in order."""
