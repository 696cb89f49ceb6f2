"""The use cases of the service, without a transport: contract, handling, reading of requests, answers. use_cases/ has one module for each."""
