"""What every test may lean on: how long to search, and nothing else."""

import signal
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("check", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("soak", parent=settings.get_profile("check"), derandomize=False, max_examples=5000)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="the long counts: thousands of kills and examples")


def pytest_configure(config: pytest.Config) -> None:
    settings.load_profile("soak" if config.getoption("--soak") else "check")


@pytest.fixture(autouse=True)
def keyboard() -> Iterator[None]:
    """A shell lets what it runs in the background ignore the keyboard, and so do tests where they are run there."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def many(request: pytest.FixtureRequest) -> Callable[[int, int], int]:
    """`many(short, long)` is `short`, or `long` under `--soak`."""
    soak = bool(request.config.getoption("--soak"))
    return lambda short, long: long if soak else short
