"""The door to Rust: the only file that imports the compiled module. It decides nothing and adds nothing."""

from packetfs._kernel import (
    Checkout,
    Chunker,
    Difference,
    Entry,
    Ingested,
    Lease,
    Space,
    checkout,
    crash_at,
    crc32c,
    decode_root,
    derive_key,
    fault_point,
    ingest,
    ingest_stream,
    keyed_digest,
)

__all__ = [
    "Checkout",
    "Chunker",
    "Difference",
    "Entry",
    "Ingested",
    "Lease",
    "Space",
    "checkout",
    "crash_at",
    "crc32c",
    "decode_root",
    "derive_key",
    "fault_point",
    "ingest",
    "ingest_stream",
    "keyed_digest",
]
