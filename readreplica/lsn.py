"""A position in the write-ahead log."""

import re
from typing import Self

from readreplica.errors import LsnMalformed

_TEXT = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")


class Lsn(int):
    """An LSN: a number of 64 bits that PostgreSQL writes as `X/Y`; later positions are greater."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read PostgreSQL's notation.

        Raises:
            LsnMalformed: the text is not `X/Y` in hexadecimal.
        """
        found = _TEXT.fullmatch(text)
        if found is None:
            raise LsnMalformed(text)
        return cls(int(found[1], 16) << 32 | int(found[2], 16))

    def before_page_header(self, *, block_bytes: int, segment_bytes: int) -> Self:
        """Give the end of the last record, if this is the insert position.

        When a record ends exactly with its page, the insert position already stands behind the header of
        the next page (24 bytes; 40 on the first page of a segment; src/include/access/xlog_internal.h).
        A replica's replay position does not, and would seem to be behind for as long as nothing is written.
        """
        header_bytes = 40 if self % segment_bytes < block_bytes else 24
        return type(self)(self - header_bytes) if self % block_bytes == header_bytes else self

    def __str__(self) -> str:
        return f"{self >> 32:X}/{self & 0xFFFFFFFF:X}"

    def __repr__(self) -> str:
        return f"Lsn('{self}')"
