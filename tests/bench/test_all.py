"""Everything by one command: what is missing, failed or left out is said, and the rest is run."""

import importlib.util

import pytest

from bench import growth, sync
from bench.all import LISTS, Part, run, section
from bench.promises import workloads


def test_a_part_that_is_not_there_is_named() -> None:
    told = run(Part("Lag", "bench.no_such_part"), quick=False, is_root=True)

    assert (told.exit_code, told.excused) == (None, False)
    assert "Not measured: there is no bench.no_such_part yet." in section(told)


def test_a_part_that_fails_says_so_beside_what_it_printed() -> None:
    told = run(Part("Sync", "bench.sync", ("--case", "no such case")), quick=False, is_root=True)

    assert told.exit_code == 1
    assert "It ended with exit code 1" in section(told)


def test_a_part_that_needs_root_is_left_out_without_it_and_nothing_is_wrong() -> None:
    told = run(Part("Sync", "bench.sync", root=True), quick=False, is_root=False)

    assert told.excused
    assert "needs root" in section(told)


@pytest.mark.parametrize("name", LISTS)
def test_every_part_is_a_module_and_names_cases_that_exist(name: str) -> None:
    known = {
        "bench.sync": {case.name for case in sync.rows()},
        "bench.growth": {case.name for case in growth.rows()},
        "bench.promises": {case.name for case in workloads(quick=True, full=True)},
    }
    for part in LISTS[name]:
        words = (*part.arguments, *part.quick)
        cases = {words[n + 1] for n, word in enumerate(words) if word == "--case"}

        assert importlib.util.find_spec(part.module)
        assert part.module not in known or cases <= known[part.module]


def test_the_lists_that_measure_end_with_the_page() -> None:
    assert [LISTS[name][-1].module for name in ("bench", "full")] == ["bench.page", "bench.page"]
