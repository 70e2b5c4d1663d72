"""The run record laid out for people: one HTML page and TensorBoard event files.

Lives here: `page.py` (the report page), `charts.py` (inline SVG), `wording.py` (numbers and claims as
words, also used by the terminal display) and `events.py` (TensorBoard). Never here: a metric, an epsilon
or a bound. This package reads a run record (schema `tacit-run-1`) and arranges the numbers in it, so that
what a person sees is what the record holds and nothing else.
"""
