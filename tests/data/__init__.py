"""What earlier releases have left behind, and the program that made it."""
