"""A stock Flower app on the project's task: what `against_flower` measures the project against; see `task.py`."""
