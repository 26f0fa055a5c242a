"""Where a key belongs, computed as PostgreSQL computes it, so that routing costs no round trip.

Source of the rules: `hashint8` in src/backend/access/hash/hashfunc.c and `hash_bytes_uint32` in
src/common/hashfn.c (Bob Jenkins' lookup3, final mix). Citus places rows by the same function. A test
compares this twin with the server's function.
"""

from hashlib import sha256

_MASK = 0xFFFFFFFF
# hash_bytes_uint32 starts from 0x9e3779b9 + sizeof(uint32) + 3923095 in all three words.
_SEED = (0x9E3779B9 + 4 + 3923095) & _MASK
# The mix begins with c ^= b, c -= rotate(b, 14); b and c are both still the seed, so this is a constant.
_FIRST_C = -(_SEED << 14 | _SEED >> 18) & _MASK


def hashint8(key: int) -> int:
    """Hash as PostgreSQL's `hashint8(key)` does.

    Parameters:
        key: a signed 64-bit number; the caller has checked the range.

    Returns:
        A signed 32-bit number.
    """
    # Folding the halves like this makes the hash of an int8 equal that of the same int4.
    k = (key ^ (key >> 32) if key >= 0 else key ^ ~(key >> 32)) & _MASK
    # Rotations are written out: a call each would cost more than the arithmetic.
    a = (_SEED + k) & _MASK
    c = _FIRST_C
    a = ((a ^ c) - (c << 11 | c >> 21)) & _MASK
    b = ((_SEED ^ a) - (a << 25 | a >> 7)) & _MASK
    c = ((c ^ b) - (b << 16 | b >> 16)) & _MASK
    a = ((a ^ c) - (c << 4 | c >> 28)) & _MASK
    b = ((b ^ a) - (a << 14 | a >> 18)) & _MASK
    c = ((c ^ b) - (b << 24 | b >> 8)) & _MASK
    return c - 0x100000000 if c & 0x80000000 else c


def bucket_of(key: int, buckets: int) -> int:
    """Find the bucket of a key: the hash range is cut into `buckets` equal pieces, as Citus cuts it.

    Parameters:
        key: a signed 64-bit number.
        buckets: how many buckets there are; a power of two.

    Returns:
        The bucket, from 0 to `buckets - 1`.
    """
    return min((hashint8(key) + 0x80000000) // (0x100000000 // buckets), buckets - 1)


def key_of_text(text: str) -> int:
    """Make a shard key from a text (an idempotency key, a content digest).

    Returns:
        A signed 64-bit number: the first eight bytes of the text's SHA-256, big-endian.
    """
    return int.from_bytes(sha256(text.encode()).digest()[:8], "big", signed=True)
