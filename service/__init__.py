"""REST (and later gRPC) around the runtime. No torch, no training, no model family."""
