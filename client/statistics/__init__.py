"""What clients release beside training: each module turns units' histories into bounded vectors, one a unit.

A vector's L2 norm is at most 1, whatever the history, and it depends on that history and on public values alone. The noise,
the encoding and the account are the same for all of them (`client/answering.py`).
"""
