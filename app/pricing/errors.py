"""What is wrong with a model or with an order's wishes, in words for the customer who sent them."""

from collections.abc import Iterable

from app.kit.errors import AppError


def _count(number: float) -> str:
    """Write a number that may be astronomic."""
    return f"{number:,.2f}".rstrip("0").rstrip(".") if 1 <= number < 1e9 else f"{number:.2g}"


def _quote(text: str) -> str:
    """Show a piece of a stranger's file: short, and without control characters."""
    return ascii(text if len(text) <= 80 else f"{text[:80]}...")


class PricingError(AppError):
    """Base of every error of pricing. Unless it says otherwise, its message is for the customer to read."""


class ModelFault(PricingError):
    """The model file cannot be measured, and its content is the reason."""


class EmptyFile(ModelFault):
    """Nothing was uploaded."""

    def __init__(self) -> None:
        super().__init__("The file is empty. Upload it again.")


class DamagedFile(ModelFault):
    """The file ends early, or is not what its name says."""

    def __init__(self, suffix: str) -> None:
        super().__init__(
            f"The file is damaged or cut off, or its content is not {suffix.upper()}. "
            "Export it again and upload it."
        )


class NoTriangles(ModelFault):
    """The file can be read, but no surface is in it."""

    def __init__(self, suffix: str) -> None:
        super().__init__(
            f"No surface was found in the {suffix.upper()} file: it is cut off, or holds no mesh. "
            "Export it again and upload it."
        )


class UnpacksTooLarge(ModelFault):
    """A 3MF archive that is small, and unpacks to far too much."""

    def __init__(self, unpacked_bytes: int, limit_bytes: int) -> None:
        super().__init__(
            f"The 3MF file unpacks to {unpacked_bytes / 2**20:,.0f} MiB; "
            f"at most {limit_bytes / 2**20:,.0f} MiB are read. Reduce the number of polygons."
        )


class TooManyBodies(ModelFault):
    """A 3MF file that places its objects over and over again."""

    def __init__(self, bodies: int, limit: int) -> None:
        super().__init__(
            f"The 3MF file places {_count(bodies)} bodies; at most {limit:,} are read. "
            "Export one piece alone."
        )


class TooMany(ModelFault):
    """More of something than is read."""

    def __init__(self, what: str, limit: int) -> None:
        super().__init__(
            f"The file holds more than {limit:,} {what}, which is the most that is read. Simplify it."
        )


class CutOff(ModelFault):
    """The file ends before what it has begun."""

    def __init__(self, suffix: str, lacking: str) -> None:
        super().__init__(f"The {suffix.upper()} file is cut off: {lacking}. Export it again and upload it.")


class WrongLength(ModelFault):
    """A binary STL whose length and whose count of triangles disagree."""

    def __init__(self, triangles: int, *, needed_bytes: int, found_bytes: int) -> None:
        kind = "is cut off" if found_bytes < needed_bytes else "goes on behind its end"
        super().__init__(
            f"The STL file {kind}: its {triangles:,} triangles take {needed_bytes:,} bytes, "
            f"and it has {found_bytes:,}. Export it again and upload it."
        )


class BadLine(ModelFault):
    """A line of text that the format does not know."""

    def __init__(self, suffix: str, number: int, line: str, why: str = "is not understood") -> None:
        super().__init__(
            f"Line {number:,} of the {suffix.upper()} file {why}: {_quote(line.strip())}. Export it again."
        )


class PointMissing(ModelFault):
    """A face refers to a point that does not exist."""

    def __init__(self, point: int, points: int) -> None:
        super().__init__(
            f"A face refers to point {point:,}, and there are {points:,}: the file is damaged or cut off. "
            "Export it again and upload it."
        )


class NotFlat(ModelFault):
    """A polygon of four corners or more that lies in no plane: its surface can be read in several ways."""

    def __init__(self, polygons: int, worst_mm: float, limit_mm: float) -> None:
        super().__init__(
            f"The model has {polygons:,} polygons that are not flat, by up to {_count(worst_mm)} mm "
            f"({limit_mm:g} mm are allowed). Export it in triangles."
        )


class SelfIntersecting(ModelFault):
    """The outline of a polygon crosses itself, so that it has no definite inside."""

    def __init__(self, polygons: int) -> None:
        super().__init__(
            f"The model has {polygons:,} polygons whose outline crosses itself. Export it in triangles."
        )


class BadPackage(ModelFault):
    """The 3MF archive or its XML breaks a rule of the format."""

    def __init__(self, why: str) -> None:
        super().__init__(f"The 3MF file cannot be read: {why}. Export it again and upload it.")


class PartMissing(ModelFault):
    """A 3MF file names a part that is not in it."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"The 3MF file lacks its part {_quote(name)}: it is incomplete. Export it again and upload it."
        )


class ObjectMissing(ModelFault):
    """A 3MF file refers to an object that does not exist."""

    def __init__(self, number: int, part: str) -> None:
        super().__init__(
            f"The 3MF file refers to object {number}, which its part {_quote(part)} does not hold. "
            "Export it again and upload it."
        )


class ContainsItself(ModelFault):
    """An object of a 3MF that is placed inside itself."""

    def __init__(self, number: int, part: str) -> None:
        super().__init__(
            f"Object {number} of the 3MF file's part {_quote(part)} contains itself. Export it as one mesh."
        )


class UnknownExtension(ModelFault):
    """A 3MF file that cannot be understood without an extension of the format that is not read here."""

    def __init__(self, prefix: str, namespace: str | None) -> None:
        named = _quote(prefix) if namespace is None else f"{_quote(prefix)} ({_quote(namespace)})"
        super().__init__(
            f"The 3MF file needs the extension {named}, which is not read here. Export it as a plain mesh."
        )


class Encrypted(ModelFault):
    """A 3MF file whose content is locked."""

    def __init__(self) -> None:
        super().__init__("The 3MF file is encrypted. Export it without protection and upload it.")


class NothingBuilt(ModelFault):
    """A 3MF file whose build section places no model."""

    def __init__(self) -> None:
        super().__init__(
            "The 3MF file builds nothing: no model is placed in its build section. "
            "Place the piece on the plate and export it again."
        )


class NotASolid(ModelFault):
    """A 3MF file builds an object that is no body by its own word."""

    def __init__(self, number: int, kind: str) -> None:
        super().__init__(
            f"Object {number} of the 3MF file is of type {_quote(kind)} and no solid body. "
            "Export the piece as a model."
        )


class NotFinite(ModelFault):
    """A coordinate is no number."""

    def __init__(self, points: int) -> None:
        super().__init__(
            f"The model has {points:,} points without a position (NaN or infinite). Export it again."
        )


class TooManyPolygons(ModelFault):
    """More triangles than casting could show."""

    def __init__(self, polygons: int, limit: int) -> None:
        super().__init__(f"The model has {polygons:,} polygons; reduce it to at most {limit:,}.")


class TooMuchMemory(ModelFault):
    """Reading the file exceeded the sandbox's memory."""

    def __init__(self) -> None:
        super().__init__("The model is too complex to be measured. Reduce the number of polygons.")


class FileTooLarge(ModelFault):
    """The file has more bytes than are measured here."""

    def __init__(self, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(
            f"The file has {size_bytes / 2**20:,.1f} MiB; at most {limit_bytes / 2**20:,.1f} MiB are "
            "measured. Reduce the number of polygons."
        )


class TooLong(ModelFault):
    """Reading the file exceeded the sandbox's processor time."""

    def __init__(self, cpu_seconds: int) -> None:
        super().__init__(
            f"The model is too complex: measuring it took more than {cpu_seconds} s. Simplify it."
        )


class ReaderCrashed(ModelFault):
    """The reader itself fell over the file."""

    def __init__(self) -> None:
        super().__init__("The file made its reader crash. Export it again, best as binary STL.")


class TooLarge(ModelFault):
    """Larger than a casting flask."""

    def __init__(self, longest_mm: float, limit_mm: float) -> None:
        super().__init__(
            f"The model is {_count(longest_mm)} mm long; jewellery is cast up to {limit_mm:g} mm. "
            "Check the unit of the export: it must be millimetres."
        )


class TooSmall(ModelFault):
    """Smaller than anything that can be cast, most often a file in metres or inches."""

    def __init__(self, longest_mm: float, limit_mm: float) -> None:
        super().__init__(
            f"The model is {_count(longest_mm)} mm long; it must be at least {limit_mm:g} mm. "
            "Check the unit of the export: it must be millimetres."
        )


class HasHoles(ModelFault):
    """The surface is open, so that it encloses nothing."""

    def __init__(self, edges: int) -> None:
        super().__init__(
            f"The model has holes: {edges:,} edges belong to one face only. Close them and upload it again."
        )


class SharedEdges(ModelFault):
    """More than two faces meet at an edge: inside and outside are undefined there."""

    def __init__(self, edges: int) -> None:
        super().__init__(
            f"Surfaces touch or repeat: {edges:,} edges belong to more than two faces. "
            "Unite the bodies and upload the model again."
        )


class MixedWinding(ModelFault):
    """Neighbouring faces disagree on what is outside."""

    def __init__(self, edges: int) -> None:
        super().__init__(
            f"Some faces point inwards and others outwards: neighbours disagree at {edges:,} edges. "
            "Recalculate the normals and upload the model again."
        )


class InsideOut(ModelFault):
    """Some bodies point outwards and others inwards: their volumes would cancel out."""

    def __init__(self, inverted: int, bodies: int) -> None:
        super().__init__(
            f"Of {bodies:,} bodies, {inverted:,} are inside out. Flip their faces; if they are sealed "
            "hollows, give them an opening, because they cannot be cast."
        )


class FlatBodies(ModelFault):
    """Surfaces that lie upon each other and enclose nothing, such as faces that are there twice."""

    def __init__(self, bodies: int) -> None:
        super().__init__(
            f"{bodies:,} parts of the model enclose nothing: surfaces without a thickness, or faces that "
            "are there twice. Remove them or give them a thickness."
        )


class NoVolume(ModelFault):
    """A closed surface around nothing."""

    def __init__(self, volume_mm3: float, limit_mm3: float) -> None:
        super().__init__(
            f"The model encloses {volume_mm3:.3g} mm³; at least {limit_mm3:g} mm³ are needed to cast it. "
            "Give the surface a thickness."
        )


class Overlapping(ModelFault):
    """Bodies that lie within each other: together they would hold more than their box can."""

    def __init__(self, volume_mm3: float, box_mm3: float) -> None:
        super().__init__(
            f"The bodies overlap: they hold {_count(volume_mm3)} mm³ in a box of {_count(box_mm3)} mm³. "
            "Unite them and upload the model again."
        )


class UnknownChoice(PricingError):
    """The tariff has no such material or finish."""

    def __init__(self, what: str, choice: str, known: Iterable[str]) -> None:
        super().__init__(f"There is no {what} {choice!r}. Choose one of {', '.join(known)}.")


class TooExpensive(PricingError):
    """A price beyond what an order can have."""

    def __init__(self, limit_eur: int) -> None:
        super().__init__(f"The order would cost {limit_eur:,} EUR or more. Order fewer pieces.")


class BadRate(PricingError):
    """A rate of the price list is no usable number; this one is for the log, and not for a customer."""

    def __init__(self, name: str, fault: str) -> None:
        super().__init__(f"the price list cannot be used: {name} {fault}")


class NothingOrdered(PricingError):
    """The order has no lines."""

    def __init__(self) -> None:
        super().__init__("The order names no model. Order again.")


class ModelLost(PricingError):
    """The storage does not hold the file that the order names."""

    def __init__(self, name: str) -> None:
        super().__init__(f"The model file {name!r} could not be found. Order again and upload it.")


class SandboxUnavailable(PricingError):
    """No file can be measured on this machine; this one is for the log, and not for a customer."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(
            f"the sandbox did not start (exit code {exit_code}): see what `python -m app.pricing.zygote` says"
        )


class SandboxTimedOut(PricingError):
    """The sandbox had no time for the file, or its child was killed from outside."""

    def __init__(self) -> None:
        super().__init__("The model could not be measured in time. Simplify it and order again.")


class AttemptsExhausted(PricingError):
    """Every attempt ended without an answer: something about the order stops the machine."""

    def __init__(self, attempts: int) -> None:
        super().__init__(
            f"The order could not be priced in {attempts} attempts. Simplify its models and order again."
        )
