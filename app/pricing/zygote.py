"""A process with the mesh libraries loaded that forks a fresh, confined child for each model file.

    python -m app.pricing.zygote        (started by app.pricing.sandbox, spoken to by its standard streams)

The first line out, `{"ready": true}`, comes when every format can be read. Then one JSON line in,
`{"path", "suffix", "task", "memory_bytes", "cpu_seconds", "wall_seconds"}`, makes one child; its task is
`measure` or `preview`. One JSON line out, `{"exit_code", "answer", "began_ns", "ended_ns"}`, says how it
ended, what it wrote, and when. Before that may come one line `{"asks": FACTS}`: a child that measures has
read its file, and waits for the known pieces of such facts. They are one JSON line in, `[SHAPE, ...]`, which
goes to the child as it is. The end of standard input means that the worker is gone, however it died: the
zygote kills its child and leaves.
"""

import contextlib
import gc
import io
import json
import os
import resource
import select
import signal
import sys
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from app.pricing.measure import examine, measure
from app.pricing.measurement import PREVIEW, SHAPES, KnownShape, ShapeFacts, Unmeasurable
from app.pricing.opc import CONTENT_TYPES, MODEL_TYPE, RELATIONSHIPS, START
from app.pricing.preview import preview
from app.pricing.threemf import CORE

MAX_ANSWER_BYTES = 16 * 2**20
"""A shape that is to be kept is the most of it: `app.pricing.shape.MAX_POINTS` of them are 8 MB as text."""
STDIN, STDOUT, STDERR = 0, 1, 2
ASKS = b"asks "
"""What a child's question begins with."""


def main() -> None:
    """Serve one request after another until standard input ends."""
    _warm_up()
    gc.freeze()  # what the children share is not to be copied by their collector
    _reply({"ready": True})
    while line := sys.stdin.buffer.readline():
        began = time.time_ns()
        exit_code, answer = _measure_in_child(json.loads(line))
        # The child opens no socket: the worker makes a span of these.
        when = {"began_ns": began, "ended_ns": time.time_ns()}
        _reply({"exit_code": exit_code, "answer": answer.decode(errors="replace"), **when})


def _reply(facts: dict[str, Any]) -> None:
    sys.stdout.buffer.write(json.dumps(facts).encode() + b"\n")
    sys.stdout.buffer.flush()


def _warm_up() -> None:
    """Measure a piece in every format.

    What is imported late is imported now, for the children open no file. And an installation that cannot
    read a format is found out here, instead of calling every customer's file damaged.
    """
    for suffix, content in SAMPLES.items():
        outcome = measure(content(), suffix=suffix)
        if isinstance(outcome, Unmeasurable):
            sys.exit(f"the mesh libraries cannot read a wedge as {suffix}: {outcome.reason}")
        if preview(content(), suffix=suffix) is None:
            sys.exit(f"a wedge as {suffix} cannot be drawn")


POINTS = ((0, 0, 0), (9, 0, 0), (0, 9, 0), (0, 0, 9))
FACES = ((0, 2, 1), (0, 1, 3), (0, 3, 2), (1, 2, 3))


def _stl() -> bytes:
    corners = "".join(
        "facet normal 0 0 0 outer loop {} endloop endfacet\n".format(
            " ".join("vertex {} {} {}".format(*POINTS[corner]) for corner in face)
        )
        for face in FACES
    )
    return f"solid wedge\n{corners}endsolid wedge\n".encode()


def _obj() -> bytes:
    # An arrow: concave polygons are looked at by a library of their own.
    flat = ((0, 0), (9, 0), (3, 3), (0, 9))
    points = [f"v {x} {y} {z}" for z in (0, 5) for x, y in flat]
    faces = ["f 4 3 2 1", "f 5 6 7 8", "f 1 2 6 5", "f 2 3 7 6", "f 3 4 8 7", "f 4 1 5 8"]
    return "\n".join([*points, *faces, ""]).encode()


def _3mf() -> bytes:
    points = "".join('<vertex x="{}" y="{}" z="{}"/>'.format(*point) for point in POINTS)
    faces = "".join('<triangle v1="{}" v2="{}" v3="{}"/>'.format(*face) for face in FACES)
    mesh = f"<mesh><vertices>{points}</vertices><triangles>{faces}</triangles></mesh>"
    package = io.BytesIO()
    with zipfile.ZipFile(package, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(
            "[Content_Types].xml",
            f'<Types xmlns="{CONTENT_TYPES}"><Default Extension="model" ContentType="{MODEL_TYPE}"/></Types>',
        )
        archive.writestr(
            "_rels/.rels",
            f'<Relationships xmlns="{RELATIONSHIPS}"><Relationship Id="m" Target="/m.model" Type="{START}"/>'
            "</Relationships>",
        )
        archive.writestr(
            "m.model",
            f'<model xmlns="{CORE}"><resources><object id="1">{mesh}</object></resources>'
            '<build><item objectid="1"/></build></model>',
        )
    return package.getvalue()


SAMPLES: Mapping[str, Callable[[], bytes]] = {"stl": _stl, "obj": _obj, "3mf": _3mf}


def _measure_in_child(request: dict[str, Any]) -> tuple[int, bytes]:
    """Fork a child for one file; return its exit code (a signal as a negative number) and its answer."""
    answer_end, child_end = os.pipe()
    known_begin, known_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(known_end)
        _run_child(request, child_end, known_begin)
    os.close(child_end)
    os.close(known_begin)
    answer = bytearray()
    asked = False
    while piece := _next_piece(answer_end, child):
        answer += piece
        if len(answer) > MAX_ANSWER_BYTES:
            os.kill(child, signal.SIGKILL)
        elif not asked and answer.startswith(ASKS) and answer.endswith(b"\n"):
            asked = True
            _answer(known_end, bytes(answer.removeprefix(ASKS)), child)
            answer.clear()
    os.close(answer_end)
    os.close(known_end)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), bytes(answer)


def _next_piece(answer_end: int, child: int) -> bytes:
    # Nothing is sent to us while a child works: standard input is readable only at its end.
    ready, _, _ = select.select([answer_end, STDIN], [], [])
    if STDIN in ready:
        _leave(child)
    return os.read(answer_end, 2**16)


def _leave(child: int) -> NoReturn:
    os.kill(child, signal.SIGKILL)
    sys.exit()


def _answer(known_end: int, facts: bytes, child: int) -> None:
    """Ask the worker for the known pieces, and hand them to the child, which may have died meanwhile."""
    _reply({"asks": facts.decode(errors="replace")})
    line = sys.stdin.buffer.readline()
    if not line:
        _leave(child)
    with contextlib.suppress(BrokenPipeError), open(known_end, "wb", closefd=False) as to_child:
        to_child.write(line)


def _run_child(request: dict[str, Any], child_end: int, known_begin: int) -> NoReturn:
    """Measure, write the answer, and end here, whatever happens: this is a copy of the zygote."""
    exit_code = os.EX_OSERR  # as long as the file has no part in what goes wrong
    with contextlib.suppress(BaseException):
        _silence()
        data = Path(request["path"]).read_bytes()
        known = open(known_begin, "rb")  # noqa: SIM115 (read within the limits, which allow no open)
        _confine(**{name: value for name, value in request.items() if name not in {"path", "suffix", "task"}})
        exit_code = os.EX_SOFTWARE

        def recall(facts: ShapeFacts) -> Sequence[KnownShape]:
            _write(child_end, ASKS + json.dumps(asdict(facts)).encode() + b"\n")
            try:
                return SHAPES.validate_json(known.readline())
            except ValidationError:
                return ()  # what is known wrongly is no fault of the file

        if request["task"] == "preview":
            answer = PREVIEW.dump_json(preview(data, suffix=request["suffix"]))
        else:
            answer = json.dumps(asdict(examine(data, suffix=request["suffix"], recall=recall))).encode()
        _write(child_end, answer)
        exit_code = os.EX_OK
    os._exit(exit_code)


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _silence() -> None:
    """Cut the child off the zygote's streams: a library's chatter must not look like a reply."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (STDIN, STDOUT, STDERR):
        os.dup2(nowhere, stream)


def _confine(*, memory_bytes: int, cpu_seconds: int, wall_seconds: float) -> None:
    """Limit what the child can use or reach. Each limit ends it by itself, also when the worker is gone.

    It has its file already: with no descriptor to spare it opens no other file and no socket.
    """
    limits = {
        resource.RLIMIT_AS: memory_bytes,
        resource.RLIMIT_CPU: cpu_seconds,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NOFILE: 0,
        resource.RLIMIT_NPROC: 0,
    }
    for limit, wanted in limits.items():
        _, most = resource.getrlimit(limit)
        value = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
        # At the soft limit comes SIGXCPU, which says what it is; at the hard one SIGKILL, which does not.
        resource.setrlimit(limit, (value, most if limit == resource.RLIMIT_CPU else value))
    signal.setitimer(signal.ITIMER_REAL, wall_seconds)


if __name__ == "__main__":
    main()
