"""The recommender: a frozen transformer, its adapter, what statistics add, and the vector that all of it travels in."""
