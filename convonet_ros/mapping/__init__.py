"""The map while it grows: volume, crops, inference, meshes, occupancy."""
