"""The bases of the errors that the application raises on purpose."""

from collections.abc import Mapping


class AppError(Exception):
    """Something that was asked for cannot be done; the message names the object and the fix."""

    def answer_headers(self) -> Mapping[str, str]:
        """Return the headers that an answer over HTTP has for it."""
        return {}


class DependencyUnavailable(AppError):
    """Base of what passes by itself: something that a request needs is away. The request may be repeated."""
