"""The board: orders of all services for those who read lists of them, and the pages that show them."""
