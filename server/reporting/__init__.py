"""A run's two outputs laid out for people: one HTML page each, and TensorBoard event files.

Lives here: `page.py` (the research record's page), `release_page.py` (the release report's page), `protection.py` (claims,
bounds and mechanism, the same on both), `document.py` (templates, reading and writing), `charts.py` (inline SVG),
`sentences.py` (numbers and claims as words, also used by the terminal display) and `events.py` (TensorBoard). Never here: a
metric, an epsilon or a bound. This package reads a run record (schema `tacit-run-1`) or a release report
(`tacit-release-1`) and arranges the numbers in it, so that what a person sees is what the file holds and nothing else.
"""
