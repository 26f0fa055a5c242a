"""Board: the read side of the order system, and the pages on it."""
