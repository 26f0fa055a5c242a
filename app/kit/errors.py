"""The bases of the errors that the application raises on purpose."""


class AppError(Exception):
    """Something that was asked for cannot be done; the message names the object and the fix."""


class DependencyUnavailable(AppError):
    """Base of what passes by itself: something that a request needs is away. The request may be repeated."""
