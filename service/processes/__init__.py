"""Several processes that serve as one: the keeper, the workers, the lines between them and the merging of metrics."""
