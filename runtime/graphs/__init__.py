"""Graph files: ONNX and TorchScript backends, and what can be told of a graph without running it."""
