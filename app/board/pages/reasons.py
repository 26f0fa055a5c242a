"""Why pricing has rejected an order: the code of the reason and its parameters, read from its English words.

An order keeps the words alone, which programs and old orders have too. A test holds this table against the
errors of `app.pricing.errors`; what it does not know is shown as it stands.
"""

import re
from collections.abc import Mapping
from functools import cache, partial

from app.board.pages.rendering import PageReader
from app.board.pages.rendering import marked as _

REASONS: Mapping[str, str] = {
    "EmptyFile": _("The file is empty. Upload it again."),
    "DamagedFile": _(
        "The file is damaged or cut off, or its content is not %(suffix)s. Export it again and upload it."
    ),
    "NoTriangles": _(
        "No surface was found in the %(suffix)s file: it is cut off, or holds no mesh. Export it again and "
        "upload it."
    ),
    "UnpacksTooLarge": _(
        "The 3MF file unpacks to %(size)s MiB; at most %(limit)s MiB are read. Reduce the number of polygons."
    ),
    "TooManyBodies": _(
        "The 3MF file places %(bodies)s bodies; at most %(limit)s are read. Export one piece alone."
    ),
    "NotFlat": _(
        "The model has %(polygons)s polygons that are not flat, by up to %(worst)s mm (%(limit)s mm are "
        "allowed). Export it in triangles."
    ),
    "SelfIntersecting": _(
        "The model has %(polygons)s polygons whose outline crosses itself. Export it in triangles."
    ),
    "Encrypted": _("The 3MF file is encrypted. Export it without protection and upload it."),
    "NothingBuilt": _(
        "The 3MF file builds nothing: no model is placed in its build section. Place the piece on the plate "
        "and export it again."
    ),
    "NotFinite": _("The model has %(points)s points without a position (NaN or infinite). Export it again."),
    "TooManyPolygons": _("The model has %(polygons)s polygons; reduce it to at most %(limit)s."),
    "TooMuchMemory": _("The model is too complex to be measured. Reduce the number of polygons."),
    "FileTooLarge": _(
        "The file has %(size)s MiB; at most %(limit)s MiB are measured. Reduce the number of polygons."
    ),
    "TooLong": _("The model is too complex: measuring it took more than %(seconds)s s. Simplify it."),
    "ReaderCrashed": _("The file made its reader crash. Export it again, best as binary STL."),
    "TooLarge": _(
        "The model is %(longest)s mm long; jewellery is cast up to %(limit)s mm. Check the unit of the "
        "export: "
        "it must be millimetres."
    ),
    "TooSmall": _(
        "The model is %(longest)s mm long; it must be at least %(limit)s mm. Check the unit of the "
        "export: it "
        "must be millimetres."
    ),
    "HasHoles": _(
        "The model has holes: %(edges)s edges belong to one face only. Close them and upload it again."
    ),
    "SharedEdges": _(
        "Surfaces touch or repeat: %(edges)s edges belong to more than two faces. Unite the bodies and "
        "upload "
        "the model again."
    ),
    "MixedWinding": _(
        "Some faces point inwards and others outwards: neighbours disagree at %(edges)s edges. Recalculate "
        "the normals and upload the model again."
    ),
    "InsideOut": _(
        "Of %(bodies)s bodies, %(inverted)s are inside out. Flip their faces; if they are sealed "
        "hollows, give "
        "them an opening, because they cannot be cast."
    ),
    "FlatBodies": _(
        "%(bodies)s parts of the model enclose nothing: surfaces without a thickness, or faces that are "
        "there "
        "twice. Remove them or give them a thickness."
    ),
    "NoVolume": _(
        "The model encloses %(volume)s mm³; at least %(limit)s mm³ are needed to cast it. Give the surface a "
        "thickness."
    ),
    "Overlapping": _(
        "The bodies overlap: they hold %(volume)s mm³ in a box of %(box)s mm³. Unite them and upload the "
        "model "
        "again."
    ),
    "TooExpensive": _("The order would cost %(limit)s EUR or more. Order fewer pieces."),
    "NothingOrdered": _("The order names no model. Order again."),
    "ModelLost": _("The model file %(name)s could not be found. Order again and upload it."),
    "SandboxTimedOut": _("The model could not be measured in time. Simplify it and order again."),
    "AttemptsExhausted": _(
        "The order could not be priced in %(attempts)s attempts. Simplify its models and order again."
    ),
}
"""By the code of a reason, what it says; in the order in which a text is looked through."""

_VALUE = re.compile(r"%\((\w+)\)s")


@cache
def _pattern(text: str) -> re.Pattern[str]:
    """Return what finds a reason in a text, with its parameters by name."""
    found = [
        f"(?P<{part}>'[^']*'|\\S+)" if at % 2 else re.escape(part)
        for at, part in enumerate(_VALUE.split(text))
    ]
    return re.compile("".join(found))


def code_of(text: str) -> tuple[str, Mapping[str, str]] | None:
    """Return the code of the reason that a text is, and its parameters; None for the words of a person."""
    for code, said in REASONS.items():
        if found := _pattern(said).fullmatch(text):
            return code, found.groupdict()
    return None


def translated(text: str | None, viewer: PageReader) -> str | None:
    """Translate each reason in a text, which has one for each line of an order; the rest stays as it is."""
    if text is None:
        return None
    for said in REASONS.values():
        text = _pattern(said).sub(partial(_say, viewer.gettext(said)), text)
    return text


def _say(text: str, found: re.Match[str]) -> str:
    return text % found.groupdict()
