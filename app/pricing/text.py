"""Text of model files, read as strictly as the formats are written.

Python's own float() and int() take more than any format knows: `1_000`, digits of all scripts.
"""

import re

from app.pricing.errors import DamagedFile

DECIMAL = rb"[+-]?(?:\d++(?:\.\d*+)?|\.\d++)(?:[eE][+-]?\d++)?"
NUMBER = rb"(?:" + DECIMAL + rb"|[+-]?(?:nan|inf|infinity))"
"""A coordinate. What is not finite is counted later, and named to the customer."""

UTF8_MARK = b"\xef\xbb\xbf"


def plain_text(data: bytes, suffix: str) -> bytes:
    """Strip the mark of UTF-8. Names may be in any encoding that leaves ASCII as it is.

    Raises:
        DamagedFile: it is binary, or in an encoding of two bytes a character.
    """
    if b"\0" in data:
        raise DamagedFile(suffix)
    return data.removeprefix(UTF8_MARK)


def line_number(text: bytes, position: int) -> int:
    """Count the line in which a position lies, from 1."""
    return len(re.findall(rb"\r\n?|\n", text[:position])) + 1


def line_at(text: bytes, position: int) -> str:
    """Cut out the line that begins at a position, to be shown."""
    return re.split(rb"[\r\n]", text[position : position + 200], maxsplit=1)[0].decode(errors="replace")
