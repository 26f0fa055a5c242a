"""Valkey on loopback: carries messages between services and keeps nothing that a database does not hold.

It has a user for each service that has rules in the project file, and our own. As soon as one service has
rules, there is no way in without a password.
"""

import hashlib
import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from ops.embedded.errors import StartFailed
from ops.embedded.processes import Daemon, last_lines, size_of
from ops.ports import LOOPBACK, PortTaken, holder_of, is_free
from ops.waiting import wait_until

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


class Valkey:
    """One Valkey server, without persistence: the outboxes send again what it loses.

    Parameters:
        password: of our own user; None where the server has no users.
    """

    name = "valkey"

    def __init__(
        self, *, folder: Path, pidfile: Path, log: Path, host: str = LOOPBACK, password: str | None = None
    ) -> None:
        self._folder = folder
        self._users = folder / "users.acl"
        self._password = password
        self.host = host
        self.daemon = Daemon(self.name, pidfile=pidfile, log=log)

    def pid(self) -> int | None:
        """Return the server's pid, None when it does not run."""
        return self.daemon.pid()

    def ports(self) -> set[int]:
        """Find the ports on which it listens."""
        return self.daemon.ports()

    def start(
        self, *, program: Path, port: int, users: Sequence[str] = (), timeout_seconds: float = 10.0
    ) -> bool:
        """Start the server and wait until it answers; False when it ran already.

        One that runs goes on with the users that it is to have: nothing in it is lost.

        Parameters:
            users: the lines of its ACL file; without them it lets everybody in.

        Raises:
            PortTaken: another program listens on `port`.
            StartFailed: it did not answer in time, or does not take the users.
        """
        if self.daemon.stop_unless_on(port) and self._takes_users(port, users):
            return False
        self.stop()
        if not is_free(port, self.host):
            raise PortTaken(self.name, port, holder_of(port))
        self._folder.mkdir(parents=True, exist_ok=True)
        log_start = size_of(self.daemon.log)
        command = [str(program), "--port", str(port), "--bind", self.host, "--dir", str(self._folder)]
        command += ["--save", "", "--appendonly", "no", "--daemonize", "no"]
        self._users.unlink(missing_ok=True)
        if users:
            self._write_users(users)
            command += ["--aclfile", str(self._users)]
        self.daemon.launch(command)
        wait_until(lambda: self.pid() is None or self.answers(port), timeout_seconds=timeout_seconds)
        if self.pid() is None or not self.answers(port):
            self.stop()
            said = last_lines(self.daemon.log, from_byte=log_start)
            if "Address already in use" in said:
                raise PortTaken(self.name, port, holder_of(port))
            raise StartFailed(self.name, f"no answer on port {port}", self.daemon.log, said)
        return True

    def has_users(self, users: Sequence[str]) -> bool:
        """Whether these were the users when it was started, or was given them last."""
        return self._written() == _text_of(users)

    def _takes_users(self, port: int, users: Sequence[str]) -> bool:
        """Set the users of the running server; return False if it must be started anew for them."""
        if self.has_users(users):
            return True
        if not users:
            return False
        given = [("ACL", "SETUSER", *line.split()[1:]) for line in users]
        gone = sorted(_names(self._written().splitlines()) - _names(users))
        if gone:
            given.append(("ACL", "DELUSER", *gone))
        if not all(answer[:1] in (b"+", b":") for answer in self._ask(port, *given)):
            return False
        self._write_users(users)
        return True

    def _written(self) -> str:
        return self._users.read_text() if self._users.exists() else ""

    def _write_users(self, users: Sequence[str]) -> None:
        partial = self._users.with_suffix(".partial")
        partial.unlink(missing_ok=True)
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(_text_of(users))
        partial.rename(self._users)

    def answers(self, port: int) -> bool:
        """Whether a server on `port` speaks the protocol, and lets us in."""
        return self._ask(port, ("PING",)) == [b"+PONG"]

    def _ask(self, port: int, *commands: tuple[str, ...]) -> list[bytes]:
        """Send commands as our own user, each of which is answered by a line; give the answers to them."""
        # A server that has no users yet does not know us, and lets us in all the same.
        login = [("AUTH", ADMIN, self._password)] if self._password else []
        try:
            with socket.create_connection((self.host, port), timeout=1) as connection:
                connection.sendall(b"".join(map(_written_out, (*login, *commands))))
                with connection.makefile("rb") as answers:
                    said = [answers.readline().rstrip() for _ in (*login, *commands)]
        except OSError:
            return [b""] * len(commands)
        return said[len(login) :]

    def stop(self) -> bool:
        """Stop the server; False when it did not run."""
        return self.daemon.stop()


def _written_out(words: Sequence[str]) -> bytes:
    """Write a command as the protocol wants it; a word may hold anything."""
    parts = [word.encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


def _text_of(users: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in users)


def _names(lines: Sequence[str]) -> set[str]:
    return {line.split()[1] for line in lines}
