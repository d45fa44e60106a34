"""Simulated sensors, their errors, and the ways on which they are carried."""
