"""Scripts to read from top to bottom and to run: `python simulations/examples/first_federation.py`."""
