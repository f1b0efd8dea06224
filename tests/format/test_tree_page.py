"""Tree pages and lists of extents mean what docs/formats says they mean."""

from __future__ import annotations

import json
from pathlib import Path

from packetfs import kernel
from tests.oracle import page

GOLDEN = Path(__file__).parents[1] / "golden"


def test_a_reader_written_from_the_documents_reads_the_golden_pages() -> None:
    golden = json.loads((GOLDEN / "page-v1.json").read_text())

    leaf, node, root = (bytes.fromhex(golden[name]["bytes"]) for name in ("leaf", "node", "root"))

    assert leaf == (GOLDEN / "page-v1.bin").read_bytes()
    assert page.leaf(leaf) == golden["entries"]
    assert page.node(node) == golden["children"]
    assert page.leaf(root) == [golden["root_entry"]]


def test_the_digest_of_a_page_covers_all_but_its_addresses() -> None:
    golden = json.loads((GOLDEN / "page-v1.json").read_text())
    key = kernel.derive_key("packetfs v1 page digest", kernel.derive_key("packetfs v1 chunk digest", bytes([7] * 32)))

    covered = {name: page.Page.of(bytes.fromhex(golden[name]["bytes"])).covered for name in ("leaf", "node", "root")}

    assert key.hex() == golden["page_key"]
    for name, part in covered.items():
        assert kernel.keyed_digest(key, part).hex() == golden[name]["digest"]


def test_a_reader_written_from_the_document_reads_the_golden_list() -> None:
    golden = json.loads((GOLDEN / "extent-list-v1.json").read_text())

    found = page.extent_list(bytes.fromhex(golden["bytes"]))

    assert [[str(address), str(length)] for address, length in found] == golden["extents"]
