"""The service: REST, gRPC and the Open Inference Protocol around the runtime. It knows no torch, no training and no model family."""
