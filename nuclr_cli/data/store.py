"""The session store: one temporaldata-layout HDF5 file per population. Import its names from here."""

from nuclr_cli.data.checksums import verify
from nuclr_cli.data.mapping import SpikeTrain
from nuclr_cli.data.meta import SCHEMA_VERSION, SourceFile, SourceRecord, StoredMeta
from nuclr_cli.data.reading import read_meta
from nuclr_cli.data.session import Session, SessionKey
from nuclr_cli.data.writing import write_population

__all__ = [
    "SCHEMA_VERSION",
    "Session",
    "SessionKey",
    "SourceFile",
    "SourceRecord",
    "SpikeTrain",
    "StoredMeta",
    "read_meta",
    "verify",
    "write_population",
]
