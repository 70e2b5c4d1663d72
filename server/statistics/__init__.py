"""What the server makes of the noised sums of statistics: each learns its part in a file of its own.

`statistic.py` says what a statistic is, `updates.py` lets all of them learn in turn and moves the weights of the scores.
"""
