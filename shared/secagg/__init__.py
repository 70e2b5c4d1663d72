"""Secure sums: real vectors as ring integers, with noise in shares (`encoding.py`), and the masks that hide each vector.

Here is what both sides of secure aggregation need: the number of neighbors (`parameters.py`), the digest that everything is
bound to (`context.py`), keys, masks, shares of secrets, the commitment to a cohort (`merkle.py`), the wire (`messages.py`,
`packing.py`). The two sides are `client/masking.py`, which explains a round, and `server/unmasking.py`.
"""
