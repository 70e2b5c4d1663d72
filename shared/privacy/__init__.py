"""What is promised, what it costs, and the device's record of it.

`plan.py` says what is done to every contribution, `planning.py` makes it from the configuration, `matrix.py` refuses what
cannot be claimed, `claims.py` puts it into words. `events.py` is what is counted, `accounting.py` what it costs (with
`loss_distribution.py`, `renyi.py` and `banded.py`). `ledger.py` is the device's own record: `reservations.py` writes many
clients' events at once, `ledger_view.py` reads them, `in_flight.py` knows what is not settled yet, `ledger_rows.py` and
`ledger_file.py` are its tables and its file, `policy.py` and `budget.py` its limits.
"""
