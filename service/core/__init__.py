"""The use cases of the service, without a transport: contract, handlers, reading of requests, answers."""
