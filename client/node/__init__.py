"""A node of its own: the owner's settings and policy, the guard, and the processes that answer a server."""
