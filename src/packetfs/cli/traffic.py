"""What a transfer moved and took, in two lines for people and one for programs."""

from typing import TYPE_CHECKING

from packetfs.cli import lines
from packetfs.cli.quantities import amount, bytes_text, percent_text

if TYPE_CHECKING:
    from packetfs.cli.output import Output
    from packetfs.sync.session import Traffic

__all__ = ["tell_traffic"]


def tell_traffic(output: "Output", traffic: "Traffic", logical_bytes: int, *, far_bytes: int = 0) -> None:
    """Say it; `far_bytes` is what is kept on disk there, where that is for this transfer alone."""
    line = lines.Transferred(
        logical_bytes=logical_bytes,
        literal_bytes=traffic.literal_bytes,
        delta_bytes=traffic.delta_bytes,
        coded_bytes=traffic.coded_bytes,
        pointers=traffic.pointer_count,
        sent_bytes=traffic.sent_bytes,
        received_bytes=traffic.received_bytes,
        round_trips=traffic.round_trips,
        seconds=round(traffic.seconds, 3),
        cpu_s=traffic.cpu_s,
        peer_cpu_s=traffic.peer_cpu_s,
        anonymous_bytes=traffic.anonymous_bytes,
        peer_anonymous_bytes=traffic.peer_anonymous_bytes,
        disk_bytes=traffic.disk_bytes,
    )
    wire = traffic.sent_bytes + traffic.received_bytes
    share = f" ({percent_text(wire / logical_bytes)} of {bytes_text(logical_bytes)})" if logical_bytes else ""
    text = (
        f"wire: {bytes_text(traffic.sent_bytes)} sent, {bytes_text(traffic.received_bytes)} received{share}, "
        f"{amount(traffic.round_trips, 'round trip')}; {bytes_text(traffic.literal_bytes)} literal, "
        f"{bytes_text(traffic.delta_bytes)} of it as deltas, {amount(traffic.pointer_count, 'pointer')}\n"
        f"used: {traffic.cpu_s:.2f} s of CPU and {bytes_text(traffic.anonymous_bytes)} of memory here, "
        f"{traffic.peer_cpu_s:.2f} s and {bytes_text(traffic.peer_anonymous_bytes)} there; "
        f"{bytes_text(traffic.disk_bytes)} kept on disk here"
    )
    if far_bytes:
        text += f", {bytes_text(far_bytes)} there"
    output.notice(line, text)
