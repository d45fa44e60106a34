"""Generated scenes: rooms, buildings and what stands in them."""
