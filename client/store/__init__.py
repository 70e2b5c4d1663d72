"""Where a client's interactions lie."""
