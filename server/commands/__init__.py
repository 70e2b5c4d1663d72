"""What a server's operator types: `tacit server ...`."""
