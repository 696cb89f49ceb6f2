"""The core of the service, without a transport: contract, reading and handling of requests, responses. use_cases/ has one module for each."""
