"""A server's `/status` as a live view: rates are differences of two looks at its counters."""

from __future__ import annotations

import http.client
import json
from typing import TYPE_CHECKING, Any

from bottlekit.errors import ServerUnreachableError, WireError

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

_MAX_STATUS_BYTES = 1 << 24


def status_from_server(host: str, port: int, timeout_s: float = 5.0) -> dict[str, Any]:
    """What `/status` says. Raises ServerUnreachableError, WireError."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        connection.request("GET", "/status")
        answer = connection.getresponse()
        status: Any = json.loads(answer.read(_MAX_STATUS_BYTES))
    except (http.client.HTTPException, ValueError) as error:
        raise WireError(
            f"http://{host}:{port}/status is not a bottlekit server's ({type(error).__name__})"
        ) from error
    except OSError as error:
        raise ServerUnreachableError(
            f"nothing answers at http://{host}:{port}/status ({error.strerror or error}); "
            f"start a server with: bottlekit serve FLEET --http {host}:{port}"
        ) from error
    finally:
        connection.close()
    if not isinstance(status, dict) or not {"uptime_s", "splits", "clients"} <= set(status):
        raise WireError(f"http://{host}:{port}/status is not a bottlekit server's")
    return status


def view(now: dict[str, Any], before: dict[str, Any] | None) -> RenderableType:
    """The tables of one look; rates need the look before, and are totals over the uptime without one."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    last = before if before is not None else _nothing()
    seconds = max(now["uptime_s"] - last["uptime_s"], 1e-3)
    latency = now["latency"] or {}
    refused = ", ".join(f"{code} {count}" for code, count in sorted(now["refused"].items())) or "none"
    head = Text(
        f"up {now['uptime_s']:.0f} s   clients {len(now['clients'])}   at work {now['in_flight']}   "
        f"queued {now['queued']}   refused: {refused}{'   STOPPING' if now['stopping'] else ''}\n"
        f"up {_rate(now, last, 'received_bytes', seconds) / 1e3:.1f} kB/s   "
        f"down {_rate(now, last, 'sent_bytes', seconds) / 1e3:.1f} kB/s   "
        f"latency p50 {_ms(latency.get('p50_ms'))}, p99 {_ms(latency.get('p99_ms'))} "
        f"over the last {latency.get('count', 0)}"
    )
    splits = Table("split", "1/s", "a batch", "waited ms", "tail ms", title="splits", title_justify="left")
    for name, split in now["splits"].items():
        old = last["splits"].get(name, dict.fromkeys(split, 0))
        new = {key: split[key] - old[key] for key in split}
        splits.add_row(
            name,
            f"{new['answered'] / seconds:.1f}",
            f"{new['answered'] / max(new['batches'], 1):.1f}",
            f"{new['queue_us'] / 1e3 / max(new['answered'], 1):.2f}",
            f"{new['tail_us'] / 1e3 / max(new['batches'], 1):.2f}",
        )
    clients = Table(
        "client", "at", "split", "1/s", "up B/s", "down B/s", "refused", title="clients", title_justify="left"
    )
    old_clients = {client["peer"]: client for client in last["clients"]}
    for client in sorted(now["clients"], key=lambda one: (one["name"], one["peer"])):
        old = old_clients.get(client["peer"], dict.fromkeys(client, 0))
        clients.add_row(
            client["name"],
            client["peer"],
            client["split"] or "-",
            f"{_rate(client, old, 'answered', seconds):.1f}",
            f"{_rate(client, old, 'received_bytes', seconds):.0f}",
            f"{_rate(client, old, 'sent_bytes', seconds):.0f}",
            str(client["refused"]),
        )
    tables = [splits, clients] if "tritons" not in now else [splits, _tritons(now, last, seconds), clients]
    return Group(head, *tables)


def _tritons(now: dict[str, Any], last: dict[str, Any], seconds: float) -> Table:
    """How the Triton servers are, where the work goes to some; `bad`: requests late, failed or lost, ever."""
    from rich.table import Table

    table = Table(title="Triton", title_justify="left")
    for column in ("Triton", "is", "at work", "1/s", "ms", "refused", "bad"):
        table.add_column(column, no_wrap=column == "is")
    old_tritons = {triton["address"]: triton for triton in last.get("tritons", ())}
    for triton in now["tritons"]:
        old = old_tritons.get(triton["address"], dict.fromkeys(triton, 0))
        answered = triton["answered"] - old["answered"]
        table.add_row(
            triton["address"],
            f"well, {triton['models']} models" if triton["well"] else f"LOST: {triton['why']}",
            str(triton["in_flight"]),
            f"{answered / seconds:.1f}",
            f"{(triton['latency_ms'] - old['latency_ms']) / answered:.2f}" if answered else "-",
            str(triton["refused"]),
            str(triton["late"] + triton["failed"] + triton["lost"]),
        )
    return table


def _nothing() -> dict[str, Any]:
    return {"uptime_s": 0.0, "received_bytes": 0, "sent_bytes": 0, "splits": {}, "clients": []}


def _rate(now: dict[str, Any], before: dict[str, Any], name: str, seconds: float) -> float:
    return float(now[name] - before[name]) / seconds


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} ms"
