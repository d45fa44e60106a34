"""Training and scoring of the network."""
