"""Keys are format: what derives from a secret today derives from it for ever, under the names that the page gives."""

import json
import re
from pathlib import Path

from packetfs import kernel

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| (\w+) \| `([^`]+)` \| (secret|digest key) \|", re.MULTILINE)


def test_every_key_of_the_page_is_what_it_was() -> None:
    golden = json.loads((ROOT / "tests/golden/keys-v1.json").read_text())
    secret = bytes.fromhex(golden["secret"])
    digest_key = kernel.derive_key("packetfs v1 chunk digest", secret)
    page = (ROOT / "docs/formats/keys.md").read_text()

    keys = {
        name: kernel.derive_key(context, secret if parent == "secret" else digest_key).hex()
        for name, context, parent in ROW.findall(page)
    }

    assert keys == golden["keys"]


def test_a_digest_is_keyed_blake3() -> None:
    golden = json.loads((ROOT / "tests/golden/keys-v1.json").read_text())
    key = bytes.fromhex(golden["keys"]["digest"])

    assert kernel.keyed_digest(key, b"content").hex() == golden["digest of 'content'"]
