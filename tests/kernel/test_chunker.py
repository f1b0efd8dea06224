"""Every path of the chunker cuts where docs/formats/casc64.md says, and a scan adds the digests."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from packetfs import kernel
from tests.oracle import casc64

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parents[1] / "golden" / "casc64.json").read_text())
PATHS = ("portable", "avx2", "avx512")
DIGEST_KEY = bytes(range(32))


def chunker(key: bytes, params: Iterable[int], path: str = "auto") -> kernel.Chunker:
    low, average, high, normalisation = params
    try:
        return kernel.Chunker(key, DIGEST_KEY, low, average, high, normalisation, path)
    except ValueError:
        pytest.skip(f"this processor cannot run {path}")


def noise(seed: int, length: int) -> bytes:
    """SplitMix64, as the golden file's recipes mean it."""
    word = (1 << 64) - 1
    numbers = []
    for _ in range(0, length, 8):
        seed = (seed + 0x9E3779B97F4A7C15) & word
        z = ((seed ^ seed >> 30) * 0xBF58476D1CE4E5B9) & word
        z = ((z ^ z >> 27) * 0x94D049BB133111EB) & word
        numbers.append((z ^ z >> 31).to_bytes(8, "little"))
    return b"".join(numbers)[:length]


def data_of(case: dict[str, Any]) -> bytes:
    return b"".join(
        noise(first, second) if kind == "noise" else bytes.fromhex(first) * second
        for kind, first, second in case["data"]
    )


@pytest.mark.parametrize("path", PATHS)
def test_the_kernel_cuts_as_the_golden_file_says(path: str) -> None:
    for case in GOLDEN["cases"]:
        found = chunker(bytes.fromhex(case["key"]), case["params"], path).cuts(data_of(case), case["last"])

        assert found == case["ends"]


def test_the_oracle_cuts_as_the_golden_file_says() -> None:
    """Small cases only: the oracle wrote the file, large cases included, and takes a second for a megabyte."""
    for case in GOLDEN["cases"]:
        if sum(length for _, _, length in case["data"]) <= 25_000:
            params = casc64.Params(*case["params"])

            assert casc64.cuts(data_of(case), bytes.fromhex(case["key"]), params, last=case["last"]) == case["ends"]


def test_the_oracle_derives_the_golden_schedules() -> None:
    for golden in GOLDEN["schedules"]:
        found = casc64.schedule(bytes.fromhex(golden["key"]))

        assert found.rank_key.hex() == golden["rank_key"]
        assert [matrix.hex() for matrix in found.matrices] == golden["matrices"]
        assert found.target == golden["target"]


@settings(max_examples=8, deadline=None)
@given(
    key=st.binary(min_size=32, max_size=32),
    pieces=st.lists(
        st.tuples(st.binary(min_size=1, max_size=40), st.integers(1, 100), st.integers(0, 900)), max_size=4
    ),
    sizes=st.tuples(st.integers(6, 8), st.integers(1, 3), st.integers(1, 3), st.integers(0, 3)),
    last=st.booleans(),
)
def test_the_kernel_cuts_like_the_oracle(
    key: bytes, pieces: list[tuple[bytes, int, int]], sizes: tuple[int, int, int, int], last: bool
) -> None:
    data = b"".join(period * times + noise(times, length) for period, times, length in pieces)
    low, average, high, normalisation = sizes
    params = (1 << low, 1 << (low + average), 1 << (low + average + high), normalisation)

    expected = casc64.cuts(data, key, casc64.Params(*params), last=last)

    assert chunker(key, params).cuts(data, last) == expected


@pytest.mark.parametrize("wide", [False, True])
def test_a_scan_gives_the_cuts_with_the_keyed_digest_of_each_chunk(wide: bool) -> None:
    data = noise(1, 100_000) * 12
    scanner = chunker(bytes(32), (8 << 10, 32 << 10, 128 << 10, 2))

    chunks = scanner.scan(data, wide=wide)

    assert [end for end, _ in chunks] == scanner.cuts(data)
    starts = [0, *(end for end, _ in chunks)]
    for start, (end, digest) in zip(starts, chunks, strict=False):
        assert digest == kernel.keyed_digest(DIGEST_KEY, data[start:end])
