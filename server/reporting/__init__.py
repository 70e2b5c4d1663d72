"""A run's two outputs laid out for people: one HTML page each, and TensorBoard event files.

Lives here: `records.py` (both files as types), `release_report.py` (what may be said in public, composed and written),
`verification.py` (whether a release report's epsilons follow from its events), `page.py` (the research record's page),
`release_page.py` (the release report's page), `protection.py` (the statement of privacy laid out, the same on both),
`comparison.py` (models side by side), `sentences.py` (claims in one sentence, also for the terminal), `document.py`
(templates), `charts.py`, `roc.py` and `svg.py` (inline SVG), `events.py` (TensorBoard) and `audit_page.py` (a verified
audit). Never here: a metric, or a bound of a run.
The pages arrange what the files hold, and show nothing else.
"""
