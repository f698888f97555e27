"""The dashboard: one process beside the head's daemon, which answers browsers and Prometheus over HTTP. See ARCHITECTURE.md."""
