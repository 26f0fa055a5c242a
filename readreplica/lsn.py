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

    def __str__(self) -> str:
        return f"{self >> 32:X}/{self & 0xFFFFFFFF:X}"

    def __repr__(self) -> str:
        return f"Lsn('{self}')"
