"""Audits: what attacks achieved against a claim, as statistics, a signed document and an offline verifier.

`tradeoff.py` (how well neighbors can be told apart), `one_run.py` (lower bounds from one run with many canaries),
`one_shot.py` (an estimate from canaries that are known to be in), `noise_probe.py` (the noise itself), `membership.py`
(rates of an attack), `gate.py` (when an audit fails). What never lives here: an attack, a model, torch. A verifier needs no
more than this folder and the accountant.
"""
