"""What the sections of a topology file are made of."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Port = Annotated[int, Field(strict=True, ge=1, le=65535)]
Text = Annotated[str, Field(strict=True, min_length=1)]
# A name stands in tokens, shard maps and role names, so it is kept plain.
Name = Annotated[str, Field(strict=True, pattern=r"^[a-z][a-z0-9_]{0,62}$")]
Count = Annotated[int, Field(strict=True, ge=0)]


class Section(BaseModel):
    """A table of the file: an unknown key is a fault, and nothing changes after it was read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Endpoint(Section):
    """A host and a port."""

    host: Text
    port: Port


class Tls(Section):
    """How connections are encrypted and proved: libpq's keywords, with paths from the topology file."""

    sslmode: Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] | None = None
    sslrootcert: Text | None = None
    sslcert: Text | None = None
    sslkey: Text | None = None
