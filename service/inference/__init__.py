"""The Open Inference Protocol, version 2 (of KServe and Triton), over REST and gRPC: each task of each model as a function of tensors.

tensors     datatypes; JSON and bytes to arrays and back
targets     NAME and NAME.TASK: the task of a model, its metadata, its configuration, a valid example
core        one inference, between the protocol and the runtime, with statistics
http, rpc   the two transports, which only translate
described   the routes in the OpenAPI document
"""
