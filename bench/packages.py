"""Fetch published packages that a demo or a figure is made from: by name, file and SHA-256, never by build.

The index is the one that pip is configured with on this machine, so a mirror serves as well as the public one; what
arrives is trusted for its digest only. Nothing of a package is ever executed or installed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import urllib.parse
import urllib.request
import zipfile
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from urllib.response import addinfourl

DATA = Path(__file__).parent / "data"
JSON_INDEX = "application/vnd.pypi.simple.v1+json"


@dataclass(frozen=True, slots=True)
class Package:
    """One published file, pinned."""

    project: str
    filename: str
    sha256: str

    @property
    def stem(self) -> str:
        """The directory that the archive unpacks to."""
        return self.filename.removesuffix(".tar.gz").removesuffix(".whl")


def fetch(package: Package) -> Path:
    """The archive on this machine, downloaded once and checked each time.

    Raises SystemExit with one clear line if the index does not have it or what came is not what was pinned.
    """
    path = DATA / "packages" / package.filename
    if path.exists() and _sha256(path) == package.sha256:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    arriving = path.with_suffix(".part")
    with _open(_address(package)) as response, arriving.open("wb") as file:
        shutil.copyfileobj(response, file, 1 << 20)
    if (found := _sha256(arriving)) != package.sha256:
        raise SystemExit(f"{package.filename}: the index sent SHA-256 {found}, pinned is {package.sha256}")
    arriving.replace(path)
    return path


def unpack(package: Package, target: Path) -> Path:
    """The tree of the package below `target`, unpacked once; its directory is returned."""
    tree = target / package.stem
    if not tree.exists():
        unfinished = target / f"{package.stem}.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        archive = fetch(package)
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel:
                wheel.extractall(unfinished)
        else:
            with tarfile.open(archive) as sdist:
                sdist.extractall(unfinished, filter="data")
        # An sdist holds one directory, not always spelled like the file; a wheel holds its files.
        inner = list(unfinished.iterdir())
        (inner[0] if len(inner) == 1 and inner[0].is_dir() else unfinished).rename(tree)
        shutil.rmtree(unfinished, ignore_errors=True)
    return tree


def _address(package: Package) -> str:
    page = f"{_index()}/{package.project.lower()}/"
    with _open(page, accept=f"{JSON_INDEX}, text/html;q=0.5") as response:
        body = response.read()
        links: dict[str, str] = (
            {file["filename"]: file["url"] for file in json.loads(body)["files"]}
            if "json" in response.headers.get("Content-Type", "")
            else _Links.of(body.decode())
        )
        if package.filename not in links:
            raise SystemExit(f"{page} does not list {package.filename}")
        return urllib.parse.urljoin(response.url, links[package.filename])


def _index() -> str:
    asked = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", "global.index-url"], capture_output=True, text=True, check=False
    )
    return (os.environ.get("PIP_INDEX_URL") or asked.stdout.strip() or "https://pypi.org/simple").rstrip("/")


def _open(url: str, accept: str = "*/*") -> addinfourl:
    try:
        response: addinfourl = urllib.request.urlopen(
            urllib.request.Request(url, headers={"Accept": accept}), timeout=60
        )
    except OSError as error:
        raise SystemExit(f"could not fetch {url}: {error}; the network is needed once") from error
    return response


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Links(HTMLParser):
    """The links of a simple index in HTML: file name to address."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, str] = {}

    @classmethod
    def of(cls, page: str) -> dict[str, str]:
        parser = cls()
        parser.feed(page)
        return parser.found

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        target = dict(attrs).get("href")
        if tag == "a" and target:
            name = urllib.parse.unquote(urllib.parse.urlsplit(target).path.rsplit("/", 1)[-1])
            self.found[name] = urllib.parse.urldefrag(target).url
