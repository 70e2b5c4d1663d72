"""Three ways to play a federation: a client after another, cohorts at once, and Flower's own engine."""
