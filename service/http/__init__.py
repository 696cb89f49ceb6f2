"""The HTTP transport: the ASGI application, request bodies, replies, streams, connections and pages."""
