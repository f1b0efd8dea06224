"""Real neighbours: two adjacent releases of a project, from three registries, each file pinned by SHA-256.

Chosen by kind, each before anything was measured on it (four of the larger ones after a first run over the others):
source trees, bundles of large scripts, generated bindings, compiled libraries; patch releases and larger steps. A pair
that turns out badly stays.
"""

from __future__ import annotations

import hashlib
import os
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from bench.packages import DATA, Package, unpack

NPM = os.environ.get("NPM_CONFIG_REGISTRY", "https://registry.npmjs.org").rstrip("/")
CRATES = "https://static.crates.io/crates"


@dataclass(frozen=True, slots=True)
class Pair:
    """An older and a newer release."""

    name: str
    older: Package
    newer: Package

    def trees(self) -> tuple[Path, Path]:
        """Both releases, fetched, checked and unpacked; nothing of them is ever run."""
        for package in (self.older, self.newer):
            _fetch_elsewhere(package)
        return unpack(self.older, DATA / "trees"), unpack(self.newer, DATA / "trees")


def _pair(project: str, pattern: str, older: tuple[str, str], newer: tuple[str, str]) -> Pair:
    packages = (Package(project, pattern.format(project, version), digest) for version, digest in (older, newer))
    return Pair(f"{project} {older[0]} -> {newer[0]}", *packages)


def _fetch_elsewhere(package: Package) -> None:
    """Put a file from npm or crates.io where `packages.fetch` finds it; it checks the digest again."""
    path = DATA / "packages" / package.filename
    address = {
        ".tgz": f"{NPM}/{package.project}/-/{package.filename}",
        ".crate": f"{CRATES}/{package.project}/{package.filename}",
    }.get(path.suffix)
    if address is None or path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with urllib.request.urlopen(address, timeout=120) as response:
            content = response.read()
    except OSError as error:
        raise SystemExit(f"could not fetch {address}: {error}; the network is needed once") from error
    if (found := hashlib.sha256(content).hexdigest()) != package.sha256:
        raise SystemExit(f"{package.filename}: {address} sent SHA-256 {found}, pinned is {package.sha256}")
    path.write_bytes(content)


SDIST, NPM_PACK, CRATE = "{}-{}.tar.gz", "{}-{}.tgz", "{}-{}.crate"
WHEEL = "{}-{}-cp312-cp312-manylinux_2_17_x86_64.manylinux2014_x86_64.whl"

PAIRS = (
    _pair(
        "django",
        SDIST,
        ("5.2.18", "461c5dd06d2ea16bd5ca37d3f46e4def1d6b0fe7588c6f4e2119517bb0af8b2d"),
        ("5.2.19", "ad03d8abc51dbff95ebf34b27123cf0c26a3b62db7ba0cd520783686362533d1"),
    ),
    _pair(
        "scipy",
        SDIST,
        ("1.18.0", "67b2ad2ad54c72ca6d04975a9b2df8c3638c34ddd5b28738e94fc2b57929d378"),
        ("1.18.1", "52c4b7422442aba924d03ad4019852b08a92e64ea187b933135687bfe2747307"),
    ),
    _pair(
        "salt",
        SDIST,
        ("3008.4", "52d1ada79389bece3d73ba0315c052183829c76313bcc2b32b2f11f540cac8e7"),
        ("3008.5", "0259deafd601d783721e5aa8ed10677d8c4d6cc12f5de17499af71590d593315"),
    ),
    _pair(
        "numpy",
        WHEEL,
        ("2.2.2", "0349b025e15ea9d05c3d63f9657707a4e1d471128a3b1d876c095f328f8ff7f0"),
        ("2.2.3", "3b787adbf04b0db1967798dba8da1af07e387908ed1553a0d6e74c084d1ceafe"),
    ),
    _pair(
        "typescript",
        NPM_PACK,
        ("5.7.2", "6826f763112d55de0093fd94a4257cabadf1f40b387757e7c68485fc971e886b"),
        ("5.7.3", "80cfca1254bab8e81d639178e42d6406d856fba6e34cad60d1ab50ee6e5f7ebb"),
    ),
    _pair(
        "react-dom",
        NPM_PACK,
        ("19.0.0", "520eaa044e9325e86f90b98711039dfd4a232bba7dd20ebd32b095a7b6377977"),
        ("19.1.0", "5604d62da58ade7f057816eb1057b3c7bb7111ff7eeffcc5afb03c7c0b8b5357"),
    ),
    _pair(
        "monaco-editor",
        NPM_PACK,
        ("0.52.0", "5dbda58750b13452de39affcea703af096022d8e3546c67ed5d3bd072763f939"),
        ("0.52.2", "c280cdcf0b0c13d1a2bf01af958d4387ed06d7f6c918401d00c4adcae1bc72b6"),
    ),
    _pair(
        "next",
        NPM_PACK,
        ("15.1.6", "19e0d19112f84b58c68a3802c657e56bcc5cea374e5f71cfb4f92a3e87b990f9"),
        ("15.1.7", "a804c0711cf32f765b69ed623709f2936c2f68d1a8934c3075da81fee8abdb85"),
    ),
    _pair(
        "three",
        NPM_PACK,
        ("0.172.0", "ec13faadf3b1e9498e3570a5822737cf8360995da3adc923f99e0bd58b29fdee"),
        ("0.173.0", "cd77a8fba52e0d7cf411fe60cfb0692fceff06121779a7934cf63ce3b53443c5"),
    ),
    _pair(
        "libc",
        CRATE,
        ("0.2.170", "875b3680cb2f8f71bdcf9a30f38d48282f5d3c95cbf9b3fa57269bb5d5c06828"),
        ("0.2.171", "c19937216e9d3aa9956d9bb8dfc0b0c8beb6058fc4f7a4dc4d850edf86a237d6"),
    ),
    _pair(
        "linux-raw-sys",
        CRATE,
        ("0.9.2", "6db9c683daf087dc577b7506e9695b3d556a9f3849903fa28186283afd6809e9"),
        ("0.9.3", "fe7db12097d22ec582439daf8618b8fdd1a7bef6270e9af3b1ebcd30893cf413"),
    ),
    _pair(
        "windows-sys",
        CRATE,
        ("0.59.0", "1e38bc4d79ed67fd075bcc251a1c39b32a1776bbe92e5bef1f0bf1f8c531853b"),
        ("0.60.2", "f2f500e4d28234f72040990ec9d39e3a6b950f9f22d3dba18416c35882612bcb"),
    ),
    _pair(
        "rustix",
        CRATE,
        ("1.0.2", "f7178faa4b75a30e269c71e61c353ce2748cf3d76f0c44c393f4e60abf49b825"),
        ("1.0.3", "e56a18552996ac8d29ecc3b190b4fdbb2d91ca4ec396de7bbffaf43f3d637e96"),
    ),
    _pair(
        "syn",
        CRATE,
        ("2.0.99", "e02e925281e18ffd9d640e234264753c43edc62d64b2d4cf898f1bc5e75f3fc2"),
        ("2.0.100", "b09a44accad81e1ba1cd74a32461ba89dee89095ba17b32f5d03683b1b1fc2a0"),
    ),
    _pair(
        "web-sys",
        CRATE,
        ("0.3.76", "04dd7223427d52553d3702c004d3b2fe07c148165faa56313cb00211e31c12bc"),
        ("0.3.77", "33b6dd2ef9186f1f2072e409e99cd22a975331a6b3591b12c764e0e55c60d5d2"),
    ),
    _pair(
        "pandas",
        WHEEL,
        ("2.2.2", "eee3a87076c0756de40b05c5e9a6069c035ba43e8dd71c379e68cab2c20f16ad"),
        ("2.2.3", "fffb8ae78d8af97f849404f21411c95062db1496aeb3e56f146f0355c9989319"),
    ),
    _pair(
        "scipy",
        WHEEL,
        ("1.15.1", "0fb57b30f0017d4afa5fe5f5b150b8f807618819287c21cbe51130de7ccdaed2"),
        ("1.15.2", "2b871df1fe1a3ba85d90e22742b93584f8d2b8e6124f8372ab15c71b73e428b8"),
    ),
    _pair(
        "typescript",
        NPM_PACK,
        ("5.6.3", "ef67f8d8ad895858024b7339d3e34bf112cae3c5db1f538c3079038b17ae30fa"),
        ("5.7.2", "6826f763112d55de0093fd94a4257cabadf1f40b387757e7c68485fc971e886b"),
    ),
    _pair(
        "aws-sdk-ec2",
        CRATE,
        ("1.110.0", "3c11b1875f8930a2ee7d45e1088af402fde11a03bfd79a391fde84dfe87da8a1"),
        ("1.111.0", "4e09d90669e1d5bb8d8d7266bb98a16dce6f134d6a1c669064fb1dfb3b037a09"),
    ),
)
