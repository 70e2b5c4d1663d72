"""Benchmarks: each compares two things side by side in one run; see `simulations/README.md`."""
