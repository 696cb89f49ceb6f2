"""The models of the service: registry, versions, batching and queueing, descriptions."""
