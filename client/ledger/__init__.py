"""What a device has spent, and what its owner allows: reserved before data is read, settled once a contribution left.

`ledger.py` is the record. `reservations.py` writes the events of many clients at once, `view.py` reads them, `in_flight.py`
knows what is not settled yet; `rows.py`, `schema.py`, `file.py` and `mark.py` are its tables and files; `limits.py` and
`costs.py` say whether more fits, `accounts.py` whose it is.
"""
