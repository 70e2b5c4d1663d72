"""What runs where the data is. Meets the server only in what `shared/protocol.py` puts on the wire."""
