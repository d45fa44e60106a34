"""The network: torch only, knows nothing of robots."""
