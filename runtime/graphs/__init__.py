"""Graph files: ONNX and TorchScript backends, and the analysis of graphs without running them."""
