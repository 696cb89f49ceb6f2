"""Several processes that act as one service: the parent process, the workers, the connections between them, and the merging of metrics."""
