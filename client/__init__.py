"""What runs where the data is. Meets the server only in what `shared/protocol/messages.py` puts on the wire."""
