"""The models that the service holds: registry, versions, batching and queueing, descriptions."""
