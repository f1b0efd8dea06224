"""A server's numbers for Prometheus, and whether it is well, over HTTP. It tells; it changes nothing.

Only what this process knows is there: what it was asked, moved and refused. How far a replica is behind its origin is
known where the replica is.
"""

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from packetfs.errors import PacketFSError
from packetfs.release import VERSION
from packetfs.sync.counts import COMMIT_SECONDS
from packetfs.sync.listen import listen_error

if TYPE_CHECKING:
    from prometheus_client import Metric

    from packetfs.sync.listen import Server

__all__ = ["Metrics"]

_REQUEST_S: Final = 5.0  # a scrape that is not asked for within this is not wanted
_PREFIX: Final = "packetfs_"
# Name, label, what it is. Each ends in `_total` when it is shown.
_COUNTERS: Final = (
    ("sessions_opened", "", "Sessions of machines that were let in."),
    ("received_bytes", "", "Bytes of the protocol from peers, beneath them TLS."),
    ("sent_bytes", "", "Bytes of the protocol to peers, beneath them TLS."),
    ("round_trips", "", "How often a peer waited for an answer before it went on."),
    ("requests", "request", "Messages that were asked, by kind."),
    ("errors", "code", "What was refused or failed, by the code of the error."),
    ("received_literal_bytes", "", "Content that came as literals and was not here before."),
    ("received_coded_bytes", "", "What literals and the scripts of trees took on the wire, from peers."),
    ("sent_literal_bytes", "", "Content that went as literals."),
    ("sent_delta_bytes", "", "Of that, what was coded against bytes that both sides held."),
    ("sent_coded_bytes", "", "What literals and the scripts of trees took on the wire, to peers."),
    ("sent_pointers", "", "Extents that were pointed at instead of sent."),
)


class Metrics:
    """An HTTP server with `/metrics` and `/healthz`, in threads of its own; a context manager."""

    def __init__(self, server: "Server", host: str, port: int) -> None:
        """UsageError `cannot-listen` if one cannot at `host`, `port` (0: any that is free)."""
        self._server = server
        registry = CollectorRegistry()
        registry.register(self)
        ProcessCollector(registry=registry)

        class Answers(_Answers):
            numbers = registry
            about = server

        try:
            self._http = _http_server(host)((host.removeprefix("[").removesuffix("]"), port), Answers)
        except (OSError, UnicodeError) as error:
            raise listen_error(host, port, error, "--metrics") from None
        self.host, self.port = host, int(self._http.server_address[1])
        self._thread = threading.Thread(target=self._http.serve_forever, name="packetfs-metrics", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def collect(self) -> "Iterator[Metric]":
        """The numbers as they are now: see prometheus_client's Collector."""
        server = self._server
        gauge = GaugeMetricFamily(f"{_PREFIX}build_info", "The version that runs.", labels=["version"])
        gauge.add_metric([VERSION], 1)
        yield gauge
        open_, arriving = server.connections()
        yield GaugeMetricFamily(f"{_PREFIX}sessions", "Sessions that are open.", value=open_)
        yield GaugeMetricFamily(
            f"{_PREFIX}arriving", "Connections that have not shown yet who they are.", value=arriving
        )
        totals = server.totals()
        for name, label, what in _COUNTERS:
            family = CounterMetricFamily(_PREFIX + name, what, labels=[label] if label else [])
            for (counted, value_of_label), value in sorted(totals.items()):
                if counted == name:
                    family.add_metric([value_of_label] if label else [], value)
            if not label and (name, "") not in totals:
                family.add_metric([], 0)
            yield family
        commits, seconds = server.counts.commits()
        below, buckets = 0, []
        for bound, count in zip((*COMMIT_SECONDS, float("inf")), commits, strict=True):
            below += count
            buckets.append(("+Inf" if bound == float("inf") else str(bound), below))
        yield HistogramMetricFamily(
            f"{_PREFIX}commit_seconds",
            "How long commits took, from when they were asked for until they were durable.",
            buckets=buckets,
            sum_value=seconds,
        )


class _Answers(BaseHTTPRequestHandler):
    """One request."""

    numbers: CollectorRegistry
    about: "Server"
    timeout = _REQUEST_S
    server_version = "packetfs"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer."""
        match self.path.partition("?")[0]:
            case "/metrics":
                self._say(200, generate_latest(self.numbers), CONTENT_TYPE_LATEST)
            case "/healthz":
                ailment = _ailment(self.about)
                self._say(503 if ailment else 200, f"{ailment or 'ok'}\n".encode("utf-8", "backslashreplace"))
            case _:
                self._say(404, b"there are /metrics and /healthz\n")

    def _say(self, status: int, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing: being asked every few seconds is no event."""


def _ailment(server: "Server") -> str:
    try:
        server.check()
    except PacketFSError as error:
        return f"{error.code}: {error.message}"
    return ""


def _http_server(host: str) -> type[ThreadingHTTPServer]:
    class Http(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """Say nothing: whoever asked has left."""

    return Http
