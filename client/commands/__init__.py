"""What a node's owner types: `tacit node ...`."""
