"""Provisioning on the server: its authority, the nodes that it approves, the files of its services."""
