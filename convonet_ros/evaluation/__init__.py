"""What the map and the networks are worth: methods beside each other, and their scores."""
