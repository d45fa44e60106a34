"""Synthetic rooms, simulated depth cameras and recordings: where training scans come from."""
