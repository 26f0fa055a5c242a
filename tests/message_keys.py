"""The keys that services of tests share: each two have their own."""

from app.messaging.routing import ServiceName
from app.messaging.signing import EntrySigner, parse_peer_keys

ALL_KEYS = ",".join(f"{service}:test=what all three services share" for service in ServiceName)
"""Keys for settings that all three services have, in one process of a test."""


def peer_keys(service: ServiceName, *names: str) -> str:
    """Write the keys of a service: of each peer those of these names, the first one signs."""
    keys = (
        f"{peer}:{name}=secret {name} of {'-'.join(sorted((service, peer)))}"
        for peer in ServiceName
        if peer is not service
        for name in names
    )
    return ",".join(keys)


def signer_of(service: ServiceName, *names: str) -> EntrySigner:
    """Make a service's signer, with keys of these names."""
    return EntrySigner(service, parse_peer_keys(peer_keys(service, *(names or ("k1",)))))
