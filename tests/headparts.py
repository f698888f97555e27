"""Head and links of a test over real gRPC on loopback: what they share."""

from shoal.config import load

SECRET = b"s" * 32
CONFIG = load(
    {
        "heartbeat_ms": 100,
        "node_suspect_ms": 1000,
        "node_dead_ms": 3000,
        "reconnect_ms_min": 20,
        "reconnect_ms_max": 100,
        "head_call_ms_max": 5000,
        "report_ms_min": 1,
    }
)
PATIENCE_S = 60.0
