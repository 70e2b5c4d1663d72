"""Local training: examples, gradients of each, clipping, noise, steps."""
