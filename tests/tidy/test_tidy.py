"""What a newcomer relies on without asking: pages that agree with the code, links that lead somewhere, one home."""

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

import packetfs
from packetfs.cli.app import COMMANDS
from packetfs.errors import CODES

ROOT = Path(__file__).parents[2]
SOURCE_ENDINGS = {".py", ".pyi", ".rs", ".toml", ".md", ".sh", ".yml"}
MARKERS = re.compile("|".join(("TO" + "DO", "FIX" + "ME", r"\bXX" + r"X\b", r"\bHA" + r"CK\b", "unimpl" + r"emented!")))
# What people and programs write, and a file that is nothing but content (its name is pinned in slot.rs).
PAGES_WITHOUT_BYTES = {"json-events.md", "location.md", "segment.md"}
NAMELESS = {"utils", "util", "helpers", "helper", "common", "misc", "core", "manager"}
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")

PUBLIC_NAMES = [
    "BusyError",
    "ConflictError",
    "DamagedError",
    "InvalidError",
    "NotFoundError",
    "PacketFSError",
    "PartialError",
    "RefusedError",
    "Selection",
    "UnavailableError",
    "UsageError",
    "Volume",
    "__version__",
    "compare",
    "connect",
    "create",
    "find",
    "open",
    "pull",
    "push",
    "verify",
]


def files() -> list[Path]:
    """Every file that is or would be committed."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def texts(*endings: str) -> list[Path]:
    return [path for path in files() if path.suffix in (endings or SOURCE_ENDINGS)]


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_every_error_code_is_explained_and_every_explained_code_exists() -> None:
    page = (ROOT / "docs/errors.md").read_text()

    explained = re.findall(r"^\| `([a-z0-9-]+)` \|", page, re.MULTILINE)

    assert sorted(explained) == sorted(CODES)


def test_every_decision_has_its_own_number_and_the_four_sections() -> None:
    decisions = sorted((ROOT / "docs/adr").glob("*.md"))
    numbers = [path.name[:4] for path in decisions]
    sections = ["Context", "Decision", "Consequences", "What would change our mind"]

    incomplete = [
        shown(path) for path in decisions if re.findall(r"^## (.+)$", path.read_text(), re.MULTILINE) != sections
    ]

    assert all(number.isdigit() for number in numbers)
    assert len(set(numbers)) == len(numbers)
    assert incomplete == []


def test_every_format_page_names_golden_files_that_exist() -> None:
    pages = [page for page in sorted((ROOT / "docs/formats").glob("*.md")) if page.name not in PAGES_WITHOUT_BYTES]

    golden = {shown(page): re.findall(r"tests/golden/[\w./-]*\w", page.read_text()) for page in pages}

    assert pages
    assert [page for page, found in golden.items() if not found] == []
    assert [name for found in golden.values() for name in found if not (ROOT / name).is_file()] == []


def test_every_golden_file_belongs_to_a_format_page() -> None:
    pages = "".join(page.read_text() for page in (ROOT / "docs/formats").glob("*.md"))

    orphans = [path.name for path in files() if path.parent == ROOT / "tests/golden" and path.name not in pages]

    assert orphans == []


def test_nothing_is_left_for_later_in_a_comment() -> None:
    left = [
        f"{shown(path)}:{number}"
        for path in texts()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if MARKERS.search(line)
    ]

    assert left == []


def test_every_relative_link_leads_to_a_file() -> None:
    broken = [
        f"{shown(page)}: {target}"
        for page in texts(".md")
        for target in LINK.findall(page.read_text())
        if not re.match(r"[a-z]+:|#", target) and not (page.parent / target.split("#")[0]).exists()
    ]

    assert broken == []


def test_the_public_names_are_these_and_all_can_be_had() -> None:
    assert sorted(packetfs.__all__) == PUBLIC_NAMES
    assert [name for name in PUBLIC_NAMES if not hasattr(packetfs, name)] == []


def test_nothing_is_fetched_from_anywhere_but_the_public_registries() -> None:
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text())
    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]

    sources = {package["source"] for package in lock["package"] if "source" in package}

    assert sources == {"registry+https://github.com/rust-lang/crates.io-index"}
    assert [pin for pin in pins if not re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9a-z.]+", pin)] == []
    assert [shown(path) for path in texts() if re.search("--(extra-)?index-" + "url", path.read_text())] == []


def test_every_command_that_the_front_page_shows_exists() -> None:
    pages = "".join((ROOT / name).read_text() for name in ("README.md", "CONTRIBUTING.md"))
    targets = set(re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))

    asked = set(re.findall(r"(?:^|`)make ([a-z]+)", pages, re.MULTILINE))
    called = set(re.findall(r"(?:^|`|\| |\$ )packetfs ([a-z]+)", pages, re.MULTILINE))
    paths = set(re.findall(r"`((?:\.ci|bench|tests|docs|kernel|src)/[\w./-]*)`", pages))

    assert asked <= targets
    assert called <= COMMANDS.keys()
    assert sorted(path for path in paths if not (ROOT / path).exists()) == []


def test_no_room_is_named_for_not_having_a_name() -> None:
    nameless = [shown(path) for path in files() if {*path.relative_to(ROOT).parent.parts, path.stem} & NAMELESS]

    assert nameless == []


def test_no_test_sleeps() -> None:
    sleeping = [
        f"{shown(path)}:{node.lineno}"
        for path in texts(".py")
        if shown(path).startswith("tests/")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr == "sleep"
    ]

    assert sleeping == []


def test_unsafe_rust_lives_in_the_map_and_the_vector_files_only() -> None:
    allowed = re.compile(r"kernel/(engine/src/(map|chunker(/\w+)?)\.rs|py/src/\w+\.rs)")

    found = [
        shown(path)
        for path in texts(".rs")
        if re.search(r"^\s*#!?\[allow\(.*unsafe_code", path.read_text(), re.MULTILINE)
    ]

    assert [name for name in found if not allowed.fullmatch(name)] == []


@pytest.mark.parametrize("name", ["pyproject.toml", "Cargo.toml"])
def test_the_version_is_one_and_the_changelog_knows_it(name: str) -> None:
    settings = tomllib.loads((ROOT / name).read_text())
    table = settings["project"] if "project" in settings else settings["workspace"]["package"]

    assert table["version"] == packetfs.__version__
    assert f"## {packetfs.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_every_page_asks_for_the_same_rust_and_python() -> None:
    rust = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["rust-version"]
    python = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"].removeprefix(">=")
    check = (ROOT / ".ci/prerequisites").read_text()
    readme = (ROOT / "README.md").read_text()

    assert f"RUST={rust}\n" in check
    assert f"Python >= {python}" in check
    assert f"Rust >= {rust}" in readme
    assert f"Python >= {python}" in readme


def test_the_glossary_defines_each_word_once_in_order() -> None:
    words = re.findall(r"^\*\*([^*]+)\*\*", (ROOT / "docs/glossary.md").read_text(), re.MULTILINE)

    assert len(words) > 30
    assert words == sorted(set(words), key=str.casefold)
