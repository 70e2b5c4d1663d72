"""Interactions and items, checked and split into histories."""
