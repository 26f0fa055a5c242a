"""The base of every error that this package raises on purpose."""


class AppError(Exception):
    """Something that was asked for cannot be done; the message names the object and the fix."""
