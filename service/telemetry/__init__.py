"""The telemetry of the service: metrics, traces and logs."""
