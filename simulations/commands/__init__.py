"""The commands of `tacit`, by subject; `simulations/cli.py` mounts them. Nothing heavy is imported at the top."""
