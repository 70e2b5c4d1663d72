"""What client, server and simulations have in common; imports none of them.

Dimension letters used in every docstring: **B** batch, **L** sequence length, **I** items, **D** width of an item's
text vector, **H** width of the transformer, **d** adapter parameters, **n** clients in the cohort, **k** list length.
"""
