"""What coordinates the clients. Sees noised updates and sums, never an interaction."""
