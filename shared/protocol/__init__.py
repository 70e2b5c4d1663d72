"""What server and clients send each other: `messages.py`, the allow-list; `secure_sums.py`; `wire.py`, how fields travel."""
