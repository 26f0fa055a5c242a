"""What a log line must not hold: secrets, and what leads to a customer's door or letter box."""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

MASK = "***"

LONGEST_TEXT = 16_384
"""A traceback may hold megabytes of what came from outside."""

_SECRET = re.compile(
    r"(?i)passw(or)?d|secret|authori[sz]ation|cookie|api_?key|credential|private_?key|token$"
)
_OF_CUSTOMER = re.compile(
    r"(?i)(customer|recipient|delivery|billing|home)_?\w*|e?_?mail(_address)?|(tele)?phone\w*|street\w*|"
    r"post(al)?_?code|zip_?code|city|client_(ip|addr|address)"
)

# Where a text holds one: the password of a URL, NAME=VALUE and NAME: VALUE, an e-mail address.
# Each part is bounded: a path of a stranger must not cost the square of its length.
_URL_PASSWORD = re.compile(r"(\b[a-zA-Z][\w+.-]{0,30}://[^\s/:@]{0,256}):[^\s/@]{1,1024}@")
_ASSIGNED = re.compile(
    r"(?i)(?<![\w-])([\w-]{0,64}?(?:password|passwd|secret|authorization)\w{0,64}['\"]?\s{0,8}[=:]\s{0,8})"
    r"(?!\s|\*)(?:(?:bearer|basic|digest)\s+)?(?:'[^'\n]*'|\"[^\"\n]*\"|[^\s,;)}]+)"
)
_EMAIL = re.compile(r"(?<![\w.+/:@-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}")
# An API key of ours, or a token: it makes its holder somebody.
_CREDENTIAL = re.compile(
    r"\bm[kt]_[a-z0-9]{12}_[\w-]{20,256}|\beyJ[\w-]{8,2048}\.[\w-]{8,2048}\.[\w-]{8,512}"
)
# SQLAlchemy's and PostgreSQL's ways to repeat the row that a statement was about; of what was cut, the rest.
_PARAMETERS = re.compile(r"\[parameters: .*?(?:\](?=\n|$)|(?=\n|$))|\[SQL parameters hidden[^\]]*\]")
_ROW = re.compile(r"(Failing row contains|\)=)\s?\((?:.*?\)(?=\.|\n|$| already| is)|.*)")


def mask_text(text: str) -> str:
    """Return a text without passwords, e-mail addresses and rows of the database, and not too long."""
    if len(text) > LONGEST_TEXT:
        text = f"{text[:LONGEST_TEXT]}... ({len(text)} characters)"
    # Most texts are a word, in which none of these can be.
    if "@" in text:
        text = _EMAIL.sub(MASK, _URL_PASSWORD.sub(rf"\1:{MASK}@", text))
    if "mk_" in text or "mt_" in text or "eyJ" in text:
        text = _CREDENTIAL.sub(MASK, text)
    if "(" in text or "[" in text:
        text = _ROW.sub(rf"\1({MASK})", _PARAMETERS.sub(f"[parameters: {MASK}]", text))
    return _ASSIGNED.sub(rf"\1{MASK}", text) if "=" in text or ":" in text else text


@lru_cache(maxsize=1000)
def _is_masked(name: str) -> bool:
    return bool(_SECRET.search(name) or _OF_CUSTOMER.fullmatch(name))


def mask(name: str, fact: Any) -> Any:
    """Return a fact as a log line may show it.

    Parameters:
        name: the fact's; that of a secret, or of a part of an address, masks whatever it is.
        fact: a value, or mappings and lists of values.
    """
    if fact is not None and _is_masked(name):
        return MASK
    if isinstance(fact, str):
        return mask_text(fact)
    if isinstance(fact, Mapping):
        return {str(key): mask(str(key), value) for key, value in fact.items()}
    if isinstance(fact, (list, tuple, set, frozenset)):
        return [mask(name, value) for value in fact]
    if fact is None or isinstance(fact, (bool, int, float)):
        return fact
    return mask_text(str(fact))
