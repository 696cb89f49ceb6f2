"""The Open Inference Protocol, version 2 (KServe and Triton's), over REST and gRPC: each task of each model as a function of tensors.

tensors     datatypes; JSON and bytes to arrays and back
targets     NAME and NAME.TASK: which task of which model, its metadata, its configuration, a legal example
core        one inference, between the protocol and the runtime; counts what it does
rest, rpc   the two transports, which only translate
"""
