"""Recordings in, files out."""
