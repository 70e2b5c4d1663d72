"""Whole federations on one machine, their baselines and benchmarks; never shipped to a device."""
