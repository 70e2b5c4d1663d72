"""Sums that nobody sees the parts of: real vectors as ring integers, with noise in shares (`encoding.py`), and their masks.

The parts of a round of secure aggregation that both sides need: how many neighbors (`parameters.py`), what all is bound to
(`context.py`), keys, masks, shares of secrets, the commitment to a cohort (`merkle.py`), the wire (`messages.py`,
`packing.py`). The two sides are `client/masking.py`, which says how a round goes, and `server/unmasking.py`.
"""
