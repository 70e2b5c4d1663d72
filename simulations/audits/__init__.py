"""Attacks on a run's own protocol, by somebody who knows everything but who is in.

`canaries.py` (made-up users and the data that holds them), `witness.py` and `local_steps.py` (what is read off each release
and round of the twin), `views.py` (the arithmetic of that), `twin.py` (the twin of a run, which is never released),
`reconstruction.py` and `adapter_reconstruction.py` (items of made-up users), `audit.py` (from a run to a document),
`signing_key.py` (whose signature is under it), `display.py` and `printing.py` (in the terminal, on paper).

Research records, which are no part of the document: `black_box.py` (what a recommender alone gives away), `linkage.py` (what
its parts give away together), `attributes.py` (what lists give away of users), `membership_inference.py` and
`window_inference.py` (whether a history, or a window of one, was used).

What never lives here: a mechanism. Canaries go through the clients' and the server's own code, or the audit would audit
itself. How bounds follow from scores: `shared/audit/`.
"""
