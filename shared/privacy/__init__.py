"""What is promised (`plan.py`), what it costs (`accounting.py`), and the device's record of it (`ledger.py`)."""
