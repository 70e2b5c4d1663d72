"""What server and clients say to each other: `messages.py`, the allow-list, and `wire.py`, how its fields travel."""
