"""What is counted, and where it goes: Prometheus, OpenTelemetry, or a function of the backend."""
