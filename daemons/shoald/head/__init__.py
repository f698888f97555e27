"""The head: node table and health, object directory, jobs and durable keys. Never on a task's path (R3)."""
