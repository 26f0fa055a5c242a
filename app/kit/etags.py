"""Entity tags (RFC 9110, 8.8.3): what a client knows of something, and by which it asks and changes."""

from hashlib import sha256

from app.kit.errors import AppError


class ChangedMeanwhile(AppError):
    """What is to be changed is not what the client has seen."""

    def __init__(self, what: str, etag: str) -> None:
        self.etag = etag
        super().__init__(f"{what} has changed since you have read it: read it again, and decide anew")

    def answer_headers(self) -> dict[str, str]:
        """Return the headers of the answer."""
        return {"ETag": self.etag}


def etag_of(content: str) -> str:
    """Return the tag of a content."""
    return f'"{sha256(content.encode()).hexdigest()[:32]}"'


def is_known(names: str, etag: str) -> bool:
    """Return whether `If-None-Match` names a tag, by the weak comparison."""
    return _names(names, etag, prefix="W/")


def is_meant(names: str, etag: str) -> bool:
    """Return whether `If-Match` names a tag, by the strong comparison: a weak one never does."""
    return _names(names, etag, prefix="")


def check_seen(what: str, etag: str, seen: str | None) -> None:
    """Refuse a change of what is not as its caller has read it.

    A repeated request is not to be asked this: its own first one has changed it.

    Parameters:
        what: in words.
        etag: its tag of now.
        seen: the tags of `If-Match`; None for whatever it is now.

    Raises:
        ChangedMeanwhile: it is another by now.
    """
    if seen is not None and not is_meant(seen, etag):
        raise ChangedMeanwhile(what, etag)


def _names(names: str, etag: str, *, prefix: str) -> bool:
    listed = [each.strip().removeprefix(prefix) for each in names.split(",")]
    return "*" in listed or etag in listed
