"""What the traces of an order must show of its life, step by step, and what a killed process excuses."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from app.messaging.tracing import MESSAGE_TYPE, OUTCOME
from tests.collector import TakenSpan

HANDLED_WITHIN_SECONDS = 2.0
"""How long after a change of status, or a message, its span ends on a busy machine."""


@dataclass(frozen=True)
class Step:
    """A span that must be there: a request, a placing, an attempt to price, or a message that was handled.

    Parameters:
        service: which process has made it.
        name: of the span.
        message: the type of the message that it handles.
    """

    service: str
    name: str
    message: str | None = None

    def is_seen_in(self, span: TakenSpan) -> bool:
        """Return whether this span is it; what was refused or postponed is not. The name has the service."""
        if (span.name, span.facts.get(MESSAGE_TYPE)) != (self.name, self.message):
            return False
        is_done = span.facts.get(OUTCOME) in {None, "handled", "repeated"}
        return is_done and span.facts.get("http.response.status_code", 200) < 400


@dataclass(frozen=True)
class Stage:
    """What follows from one request without another one: all of it must be in one trace.

    Parameters:
        status: what the order gets by it first.
        steps: of which the first one is the request.
    """

    status: str
    steps: tuple[Step, ...]


def handled(message: str, *services: str) -> list[Step]:
    """Return the steps in which services handle a message."""
    return [Step(service, f"process orders:{service}", message) for service in services]


def life_of(channel: str, status: str) -> list[Stage]:
    """Return the stages of an order that has ended, as docs/explanation/architecture.md has its messages."""
    shop = ("shop",) if channel == "B2C" else ()
    verdict = "order.rejected" if status == "REJECTED" else "order.price_calculated"
    priced = [Step("pricing", "price order"), *handled(verdict, "crm", *shop)]
    if shop:
        first = [Step("shop", "POST /v1/orders/{order_id}/submit"), *handled("order.submitted", "mes", "crm")]
        stages = [
            Stage("INITIATED", (Step("shop", "POST /v1/orders"),)),
            Stage("FILE_UPLOADED", (Step("shop", "PUT /v1/orders/{order_id}/model"),)),
        ]
    else:
        taken = [Step("mes", "POST /v1/partners/{partner}/orders"), Step("mes", "place")]
        first = [*taken, *handled("order.submitted", "crm")]
        stages = []
    stages.append(Stage("SUBMITTED", (*first, *priced)))
    if status == "CANCELLED":
        stages.append(
            _asked(
                "CANCELLED", "crm", "cancel", ("order.cancel_requested", "mes"), ("order.cancelled", "crm")
            )
        )
    return stages + (_made(shop) if status == "CLOSED" else [])


def _asked(status: str, service: str, verb: str, *then: tuple[str, ...]) -> Stage:
    request = Step(service, f"POST /v1/orders/{{order_id}}/{verb}")
    return Stage(status, (request, *(step for message in then for step in handled(*message))))


def _made(shop: tuple[str, ...]) -> list[Stage]:
    advanced = {
        "MANUFACTURING_COMPLETED": "order.manufacturing_completed",
        "PACKAGING": "order.packaging",
        "SHIPPED": "order.shipped",
    }
    return [
        _asked("MANUFACTURING_APPROVED", "crm", "approve", ("order.approved", "mes", *shop)),
        _asked("MANUFACTURING_STARTED", "mes", "take", ("order.manufacturing_started", "crm", *shop)),
        *(_asked(to, "mes", "advance", (message, "crm", *shop)) for to, message in advanced.items()),
        _asked("CLOSED", "crm", "close", ("order.closed", "mes", *shop)),
    ]


@dataclass(frozen=True)
class Killed:
    """A process that was killed: what it had made in its last moment, and had not sent, is gone.

    Its queue is sent in the order in which spans end: what ended before the last one that came is not lost.

    Parameters:
        service: its name.
        last_seen: when the last of its spans that arrived had ended.
        at: when it was killed.
    """

    service: str
    last_seen: float
    at: float

    def excuses(self, step: Step, changed_at: float) -> bool:
        """Return whether a step may have been made in that moment.

        Parameters:
            changed_at: when the order changed its status by what the step is about.
        """
        of_last_moment = self.last_seen - HANDLED_WITHIN_SECONDS <= changed_at <= self.at
        return step.service == self.service and of_last_moment


@dataclass
class Found:
    """What the traces of an order show.

    Parameters:
        broken: stages that are in more than one trace.
        missing: steps that are in none, and should be.
        lost: steps that were lost with a killed process; what comes after them is there.
    """

    broken: list[Stage] = field(default_factory=list)
    missing: list[tuple[Stage, Step]] = field(default_factory=list)
    lost: list[tuple[Stage, Step]] = field(default_factory=list)

    @property
    def reaches_its_end(self) -> bool:
        """Whether each stage up to the end is one trace, and nothing is missing of it without an excuse."""
        return not self.broken and not self.missing

    def faults(self, order_id: str) -> list[str]:
        """Describe what is broken or missing, one line each."""
        of = f"order {order_id}"
        return [f"{of}: {stage.status} is in more than one trace" for stage in self.broken] + [
            f"{of}: {stage.status} lacks {step.name} of {step.service}" for stage, step in self.missing
        ]


def follow(
    spans: Iterable[TakenSpan],
    *,
    channel: str,
    status: str,
    changed_at: Mapping[str, float] | None = None,
    killed: Killed | None = None,
) -> Found:
    """Follow an order by its spans.

    Parameters:
        spans: those that bear the order's id.
        channel: the order's.
        status: by which it has ended.
        changed_at: when it got each status, by a service that was not killed; and when the one that was has
            received a message of a type, as far as its inbox still has it.
        killed: the process that was.
    """
    found, spans = Found(), list(spans)
    for stage in life_of(channel, status):
        traces = _traces_of(stage, spans)
        if len(traces) > 1:
            found.broken.append(stage)
        for step in stage.steps:
            if any(step.is_seen_in(span) for span in spans if not traces or span.trace in traces):
                continue
            # A time that is not known excuses nothing.
            times = changed_at or {}
            when = times.get(step.message or "", times.get(stage.status, float("-inf")))
            is_lost = killed is not None and killed.excuses(step, when)
            (found.lost if is_lost else found.missing).append((stage, step))
    return found


def _traces_of(stage: Stage, spans: Sequence[TakenSpan]) -> set[str]:
    """Return the traces that hold what follows from the request: others of its name may be repeats."""
    following = stage.steps[1:]
    return {span.trace for span in spans if any(step.is_seen_in(span) for step in following)}
