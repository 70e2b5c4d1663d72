"""What the three command lines have in common: streams, environment, interruption."""
