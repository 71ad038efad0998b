"""The table of what does not depend on time: what each bundle sends, and how often it is right."""

from __future__ import annotations

from bottlekit.report.setups import Values, held_out_words
from bottlekit.report.table import Cell, Column, Table


def bundles_table(profile: Values, title: str = "Bytes and accuracy") -> Table:
    """One row a bundle: bytes of its payload, alone and framed, bytes of the JPEG input, and accuracies."""
    columns = (
        Column("bundle", "bundle"),
        Column("split", "split"),
        Column("payload_bytes", "mean", "B", "payload"),
        Column("payload_p99_bytes", "p99", "B", "payload"),
        Column("framed_bytes", "framed", "B", "payload"),
        Column("input_jpeg_bytes", "JPEG input", "B"),
        Column("accuracy", "split", "%", "accuracy"),
        Column("baseline_accuracy", "uncompressed", "%", "accuracy"),
    )
    rows = []
    for entry in profile["bundles"]:
        payload, accuracy = entry["payload_bytes"], entry["accuracy"] or {}
        numbers = (
            payload["mean"],
            payload.get("p99"),
            (entry.get("framed_bytes") or {}).get("request"),
            (entry.get("input_jpeg_bytes") or {}).get("mean"),
            accuracy.get("split"),
            accuracy.get("baseline"),
        )
        cells = [Cell(None) if number is None else Cell(number, "measured") for number in numbers]
        rows.append((Cell(entry["bundle"]["name"]), Cell(entry["bundle"]["split"]), *cells))
    return Table(title, columns, tuple(rows), note=f"{held_out_words(profile)}; bytes: of one inference")
