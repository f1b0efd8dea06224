"""A table of orders as analysts keep it, in Parquet: a million rows, before and after a day's updates and new rows.

Eight columns of the kinds that there are: ascending ids and times, floats, words that repeat and strings that never
do. Everything is seeded. The file is written by pyarrow as it writes by itself, with zstd in the place of snappy, in
row groups of 131,072 rows: what has changed is compressed anew with what has not, page by page.

The same version of pyarrow writes the same bytes; which one is in constraints.txt.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

ROWS = 1_000_000
ROW_GROUP = 131_072
SEED = 20_261_128
STATES = ("new", "paid", "packed", "shipped", "delivered", "returned")
COUNTRIES = ("AT", "CH", "CZ", "DE", "DK", "ES", "FR", "GB", "IT", "NL", "PL", "SE")


def missing() -> str:
    """What it takes to write the table and is not here; empty if nothing."""
    absent = [name for name in ("numpy", "pyarrow") if importlib.util.find_spec(name) is None]
    return f"not installed: pip install -c constraints.txt {' '.join(absent)}" if absent else ""


def write(path: Path, *, changed: bool, rows: int = ROWS) -> None:
    """Write the table to `path`; if it has `changed`, with 1 % of its rows updated and 2 % more."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = _columns(np.random.default_rng(SEED), 0, rows)
    if changed:
        dice = np.random.default_rng(SEED + 1)
        updated = rows // 100
        at = slice(rows // 2, rows // 2 + updated)  # one run, in the middle
        columns["state"][at] = dice.choice(STATES, updated)
        columns["total"][at] = dice.integers(100, 100_000, updated) / 100
        columns["score"][at] = dice.random(updated, dtype=np.float32)
        added = _columns(dice, rows, rows * 2 // 100)
        columns = {name: np.concatenate([column, added[name]]) for name, column in columns.items()}
    table = pa.table({name: pa.array(column) for name, column in columns.items()})
    pq.write_table(table, path, compression="zstd", row_group_size=ROW_GROUP)


def _columns(dice: Any, first: int, count: int) -> dict[str, Any]:
    """`count` rows that follow those before `first`."""
    import numpy as np

    day_us, second_us = 1_700_000_000 * 10**6, 10**6
    waits_us = dice.integers(0, 2 * second_us, count)
    return {
        "id": np.arange(first, first + count),
        "time": (day_us + first * second_us + np.cumsum(waits_us)).astype("datetime64[us]"),
        "customer": dice.integers(0, 200_000, count, dtype=np.int32),
        "country": dice.choice(COUNTRIES, count),
        "state": dice.choice(STATES, count),
        "total": dice.integers(100, 100_000, count) / 100,
        "score": dice.random(count, dtype=np.float32),
        "reference": np.frombuffer(dice.bytes(8 * count).hex().encode(), dtype="S16").astype("U16"),
    }
