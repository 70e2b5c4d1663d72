"""Sums that nobody sees the parts of: real vectors as ring integers, with noise in shares (`encoding.py`)."""
