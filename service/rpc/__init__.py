"""The gRPC transport: the server, calls, messages and their limits."""
