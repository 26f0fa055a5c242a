"""What every service shares, and that knows nothing of orders: HTTP, errors, tasks, a process."""
