"""The users of the embedded Valkey: one for each service that has rules in the project file, and our own.

As soon as one service has rules, there is no way in without a password.
"""

import hashlib
from collections.abc import Mapping, Sequence

ADMIN = "mesctl"
"""May do everything: for `mesctl` itself, and for people."""


def password_name(user: str) -> str:
    """Return the name under which the password of a user stands in the password file."""
    return f"redis_{user}"


def users_of(rules: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """List the users that have a password; none where no service has rules."""
    named = tuple(name for name, lines in rules.items() if lines)
    return (ADMIN, *named) if named else ()


def acl_of(rules: Mapping[str, Sequence[str]], passwords: Mapping[str, str]) -> tuple[str, ...]:
    """Write the lines of Valkey's ACL file; the default user, whose way in they close, comes last.

    Parameters:
        rules: of each service, in the words of `ACL SETUSER`; they add to nothing.
        passwords: by the names in the password file.
    """
    may = {ADMIN: ("~* &* +@all",), **rules}
    users = [
        f"user {user} reset on #{_hashed(passwords[password_name(user)])} {' '.join(may[user])}"
        for user in users_of(rules)
    ]
    return (*users, "user default reset") if users else ()


def _hashed(password: str) -> str:
    return hashlib.sha256(password.encode()).hexdigest()
