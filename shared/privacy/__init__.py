"""What is promised, and what it costs.

`plan.py` says what is done to every contribution, `calibration.py` makes it from the configuration, `supported_claims.py`
refuses what cannot be claimed, `claims.py` puts it into words. `events.py` is what is counted, `accounting.py` what it costs
(with `loss_distribution.py`, `skellam.py`, `renyi.py`, `correlated_noise.py`). The device's own record is `client/ledger/`.
"""
