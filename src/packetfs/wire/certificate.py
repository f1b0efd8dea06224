"""The certificate in which a machine's public key travels. It says nothing else: who is trusted is decided by the key.

A TLS library wants a chain that ends in a root, and the one in Python offers no other way to see an unknown peer's key.
So every certificate is signed by a root whose private key is no secret: anybody can derive it from a sentence. The
chain of every PacketFS therefore holds and proves nothing; that the peer has the private key of its certificate is
proved by TLS itself, and whether that key is a known one is asked by whoever calls (docs/adr/0011).

Names and serial number are the same in all, and the time of validity is all time: no clock makes a certificate invalid.
"""

import hashlib
from datetime import datetime
from typing import TYPE_CHECKING, Final

from packetfs.errors import InvalidError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

__all__ = ["ROOT_PEM", "SEED_BYTES", "device_of_certificate", "device_of_pem", "identity_pem", "made_root_pem"]

SEED_BYTES: Final = 32
_ROOT_SENTENCE: Final = b"packetfs tls root 1: this key is public and proves nothing"
_ROOT_NAME: Final = "packetfs public root"
_NAME: Final = "packetfs"
# What `made_root_pem` makes, and always will: making it costs each command as long again as reading a certificate.
ROOT_PEM: Final = """\
-----BEGIN CERTIFICATE-----
MIIBBDCBt6ADAgECAgEBMAUGAytlcDAfMR0wGwYDVQQDDBRwYWNrZXRmcyBwdWJs
aWMgcm9vdDAgFw03MDAxMDEwMDAwMDBaGA85OTk5MTIzMTIzNTk1OVowHzEdMBsG
A1UEAwwUcGFja2V0ZnMgcHVibGljIHJvb3QwKjAFBgMrZXADIQB668PR+x2ELBhN
Hv6ObZDV/NloM/LVdgFWqkm+8Q/xyqMWMBQwEgYDVR0TAQH/BAgwBgEB/wIBADAF
BgMrZXADQQDYCVowjRypJLZD3Wz7FkepTv8WqRpAM0JNPg4VYCpfz8PCdcjY+diU
NUuvKqKoWiiH2o/C4vv1GxzV0MbKxRwJ
-----END CERTIFICATE-----
"""


def identity_pem(seed: bytes) -> bytes:
    """The private key that `seed` is, and its certificate, as PEM; the same for the same seed."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = Ed25519PrivateKey.from_private_bytes(seed)
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return secret + _certificate(key.public_key(), _NAME, _root(), is_root=False)


def made_root_pem() -> bytes:
    """The certificate in which every chain ends, as PEM: ROOT_PEM."""
    root = _root()
    return _certificate(root.public_key(), _ROOT_NAME, root, is_root=True)


def device_of_certificate(der: bytes) -> bytes:
    """The device id of the machine that a certificate is of: the SHA-256 of its Ed25519 public key.

    InvalidError when it is no certificate, or one with a key of another kind.
    """
    from cryptography import x509

    try:
        key = x509.load_der_x509_certificate(der).public_key()
    except Exception as error:  # noqa: BLE001 - it parses what a stranger sent, and has a dozen ways to refuse
        raise _no_identity(f"its certificate cannot be read: {error}") from None
    return _device(key)


def device_of_pem(pem: bytes) -> bytes:
    """The device id of the machine whose private key is in `pem`; InvalidError when there is none in it."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(pem, password=None)
    except Exception as error:  # noqa: BLE001 - as above
        raise _no_identity(f"there is no private key in it: {error}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise _no_identity("its key is not Ed25519")
    return _device(key.public_key())


def _device(key: object) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    if not isinstance(key, Ed25519PublicKey):
        raise _no_identity("its key is not Ed25519")
    return hashlib.sha256(key.public_bytes_raw()).digest()


def _root() -> "Ed25519PrivateKey":
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(_ROOT_SENTENCE).digest())


def _certificate(key: "Ed25519PublicKey", name: str, signer: "Ed25519PrivateKey", *, is_root: bool) -> bytes:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509.oid import NameOID

    def named(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    builder = (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named(_ROOT_NAME))
        .public_key(key)
        .serial_number(1)
        .not_valid_before(datetime(1970, 1, 1))  # noqa: DTZ001 - the library takes it for UTC
        .not_valid_after(datetime(9999, 12, 31, 23, 59, 59))  # noqa: DTZ001 - as above; the "no end" of RFC 5280
    )
    if is_root:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    return builder.sign(signer, None).public_bytes(Encoding.PEM)


def _no_identity(why: str) -> InvalidError:
    return InvalidError(f"this is no identity of PacketFS: {why}", code="bad-identity")
