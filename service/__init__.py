"""REST, gRPC and the Open Inference Protocol around the runtime. No torch, no training, no model family."""
