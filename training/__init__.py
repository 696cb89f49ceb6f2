"""Offline training and export. Knows the runtime's artifact format; never the service."""
