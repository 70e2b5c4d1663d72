"""Data sets that the project makes, each with a known best achievable score."""
