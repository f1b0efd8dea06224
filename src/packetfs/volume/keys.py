"""What a volume's secret is turned into on the Python side: ids, chain hashes, MACs. The kernel derives its own.

Contexts are part of the format (docs/formats/journal.md, snapshot.md): changing a letter makes every volume unreadable.
"""

import struct

from packetfs import kernel
from packetfs.format.entry import MAC_BYTES, Position

__all__ = ["Keys"]

_ROW = struct.Struct("<QQQQ")


class Keys:
    """Keyed digests of one volume."""

    def __init__(self, secret: bytes, volume_id: bytes, *, digest_key: bytes | None = None) -> None:
        """Of a volume with this `secret`; or of a replica: its own secret, and the `digest_key` of its origin."""
        if digest_key is None:
            digest_key = kernel.derive_key("packetfs v1 chunk digest", secret)
        # Whoever may read the volume has the digest key and can check ids and the chain; the MAC is for full holders.
        self._snapshot_key = kernel.derive_key("packetfs v1 snapshot id", digest_key)
        self._chain_key = kernel.derive_key("packetfs v1 journal chain", digest_key)
        self._mac_key = kernel.derive_key("packetfs v1 journal mac", secret)
        self._row_key = kernel.derive_key("packetfs v1 journal rows", secret)
        self._cache_key = kernel.derive_key("packetfs v1 cache names", secret)
        self.genesis = Position(0, kernel.keyed_digest(self._chain_key, b"genesis" + volume_id))
        """Where a volume without any entry stands."""

    @staticmethod
    def secret_id(secret: bytes) -> bytes:
        """8 bytes by which `volume.toml` recognises its secret; they say nothing about it."""
        return kernel.derive_key("packetfs v1 secret id", secret)[:8]

    def snapshot_id(self, data: bytes) -> bytes:
        """The id of the snapshot whose bytes are `data`."""
        return kernel.keyed_digest(self._snapshot_key, data)

    def entry_hash(self, data: bytes) -> bytes:
        """The chain hash of the journal entry whose bytes are `data`; they include the hash before it."""
        return kernel.keyed_digest(self._chain_key, data)

    def sealed(self, data: bytes) -> bytes:
        """A journal entry as it is stored in a segment: its bytes and a MAC over them."""
        return data + kernel.keyed_digest(self._mac_key, data)

    def unsealed(self, chunk: bytes) -> bytes | None:
        """The journal entry in a chunk of kind journal; None if the MAC is not ours."""
        data, mac = chunk[:-MAC_BYTES], chunk[-MAC_BYTES:]
        # Compared as digests of both, so that the time it takes tells nothing about a MAC that is nearly right.
        ours = kernel.keyed_digest(self._mac_key, data)
        return data if kernel.keyed_digest(self._mac_key, mac) == kernel.keyed_digest(self._mac_key, ours) else None

    def row_check(self, *numbers: int) -> bytes:
        """8 bytes beside a row of journal.db whose numbers decide what may be overwritten; SQLite has no checksums."""
        padded = (*numbers, *(0,) * (4 - len(numbers)))
        return kernel.keyed_digest(self._row_key, bytes([len(numbers)]) + _ROW.pack(*padded))[:8]

    def ranges_check(self, segment: int, seq: int, ranges: bytes) -> bytes:
        """The same beside a row of ranges: one that was lost would let a push point to what is gone."""
        return kernel.keyed_digest(self._row_key, b"ranges" + struct.pack("<QQ", segment, seq) + ranges)[:8]

    def cache_name(self, parts: list[bytes]) -> str:
        """A file name for what is cached about `parts`; it tells nothing about them."""
        data = b"".join(struct.pack("<Q", len(part)) + part for part in parts)
        return kernel.keyed_digest(self._cache_key, data)[:16].hex()
