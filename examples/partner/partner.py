"""A partner's client of the MES: order, wait for the price, and verify webhooks."""

import argparse
import base64
import hashlib
import hmac
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

OLDEST_SECONDS = 300
_REPEATED = frozenset({429, 503})


class Partner:
    """One partner's view of the MES."""

    def __init__(self, client: httpx.Client, name: str) -> None:
        """Take a client that has the address and the key."""
        self._client = client
        self._path = f"/v1/partners/{name}"

    def submit(self, model: Path, *, key: str | None = None, **order: str) -> dict[str, Any]:
        """Order from a model's file; the same key finds the same order, however often this is repeated."""
        headers = {"Idempotency-Key": key or str(uuid4())}
        files = {"file": (model.name, model.read_bytes())}
        answer = self._send("POST", "/orders", headers=headers, files=files, data=order)
        return dict(answer.json())

    def quote(self, model: Path, *, seconds: float = 600, **asked: str) -> dict[str, Any]:
        """Ask what a model costs, and order nothing; an order for the same has this price until it ends."""
        ends, files = time.monotonic() + seconds, {"file": (model.name, model.read_bytes())}
        shown = self._send("POST", "/quotes", files=files, data=asked).json()
        while shown["state"] == "waiting" and time.monotonic() < ends:
            time.sleep(1)
            shown = self._send("GET", f"/quotes/{shown['quote_id']}").json()
        return dict(shown)

    def wait(self, order_id: str, *, until: str = "PRICE_CALCULATED", seconds: float = 600) -> dict[str, Any]:
        """Ask for an order until it has a status; an unchanged one costs a 304."""
        ends, tag, shown = time.monotonic() + seconds, "", dict[str, Any]()
        while time.monotonic() < ends:
            answer = self._send("GET", f"/orders/{order_id}", headers={"If-None-Match": tag} if tag else {})
            if answer.status_code == httpx.codes.OK:
                tag, shown = answer.headers["ETag"], answer.json()
                if shown["status"] in {until, "REJECTED", "CANCELLED"}:
                    return shown
            time.sleep(1)
        raise TimeoutError(f"order {order_id} is still {shown.get('status')}")

    def listen(self, url: str, *events: str) -> dict[str, Any]:
        """Have events sent to a URL; the answer holds the secret, this once."""
        return dict(self._send("POST", "/webhooks", json={"url": url, "events": list(events)}).json())

    def _send(self, method: str, path: str, *, tries: int = 5, **content: Any) -> httpx.Response:
        """Send, again after the time that the answer names while the service is busy."""
        for left in range(tries, 0, -1):
            answer = self._client.request(method, self._path + path, **content)
            if answer.status_code not in _REPEATED or left == 1:
                break
            time.sleep(float(answer.headers.get("Retry-After", "2")))
        if answer.is_error:
            raise RuntimeError(f"{answer.status_code}: {answer.json()['detail']}")
        return answer


def verify(secret: str, headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
    """Return the event of a webhook, or raise ValueError: it was not signed by the secret, or is old.

    Keep the `webhook-id` of what you have had: an event may come twice.
    """
    event_id, sent_at = headers["webhook-id"], headers["webhook-timestamp"]
    if abs(time.time() - int(sent_at)) > OLDEST_SECONDS:
        raise ValueError("this was sent too long ago")
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{event_id}.{sent_at}.".encode() + body
    wanted = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    given = [each.partition(",")[2] for each in headers["webhook-signature"].split(" ")]
    if not any(hmac.compare_digest(wanted, each) for each in given):
        raise ValueError("the signature is not good")
    return dict(json.loads(body))


def main() -> None:
    """Order, and print the price."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    for name in ("material", "finish", "quantity"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--reference", default="")
    parser.add_argument("--quote", action="store_true", help="ask for the price, and order nothing")
    asked = vars(parser.parse_args())
    is_quote = asked.pop("quote")
    headers = {"Authorization": f"Bearer {os.environ['PARTNER_KEY']}"}
    with httpx.Client(base_url=os.environ["PARTNER_URL"], headers=headers) as client:
        partner = Partner(client, os.environ["PARTNER_NAME"])
        if is_quote:
            del asked["reference"]
            quoted = partner.quote(asked.pop("model"), **asked)
            print(f"{quoted['quote_id']}: {quoted['state']}, {quoted['price']} {quoted['currency']}")
            return
        made = partner.submit(asked.pop("model"), **asked)
        shown = partner.wait(made["order_id"])
    print(f"{shown['order_id']}: {shown['status']}, {shown['price']} {shown['currency']}")


if __name__ == "__main__":
    main()
