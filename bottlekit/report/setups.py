"""The tables of the pipe: the three setups per network, one plan's terms, one profile's phases.

profile.json + {link: plan.json} -> setups_table   mobile-only, cloud-only, collaborative
plan.json                        -> plan_table     every candidate with the terms it is made of
profile.json                     -> phases_table   every phase with its percentiles
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bottlekit.errors import ReportError
from bottlekit.report.render import number_text
from bottlekit.report.table import Cell, Column, Table, with_best

TERMS = ("device", "uplink", "rtt", "server", "downlink")
"""What latency and energy are made of, in the order of an inference."""

LINK_TITLES = {"3g": "3G", "4g": "4G", "wifi": "Wi-Fi"}

Values = Mapping[str, Any]
Key = tuple[str, str]


def link_title(plan: Values) -> str:
    """The network of a plan as people write it: 3G, 4G, Wi-Fi, or the name as given."""
    name = str(plan["link"]["name"])
    return LINK_TITLES.get(name, name)


def candidate_key(candidate: Values) -> Key:
    """What a candidate is, in every plan: its setup, and its split ('' where there is none)."""
    return str(candidate["setup"]), str(candidate.get("split") or "")


def candidate_title(candidate: Values) -> str:
    """The name of a candidate's row: 'mobile-only', 'cloud-only (JPEG input)', 'collaborative at rb1'."""
    setup, split = candidate_key(candidate)
    if setup == "cloud-only":
        return "cloud-only (JPEG input)"
    return f"{setup} at {split}" if split else setup


def ordered_candidates(profile: Values, plan: Values) -> list[Values]:
    """A plan's candidates in the order of the table: mobile-only, cloud-only, then splits from input to output."""
    setups = ("mobile-only", "cloud-only", "collaborative")
    depth = {entry["bundle"]["split"]: entry["bundle"]["split_index"] for entry in profile["bundles"]}

    def place(candidate: Values) -> tuple[int, int]:
        setup, split = candidate_key(candidate)
        if setup not in setups:
            raise ReportError(
                f"the plan for {link_title(plan)} has a setup {setup!r}; there are: {', '.join(setups)}"
            )
        return setups.index(setup), depth.get(split, 0)

    return sorted(plan["ranking"], key=place)


def setups_table(
    profile: Values,
    plans: Mapping[str, Values],
    measured: Mapping[Key, Mapping[str, float]] | None = None,
    title: str = "Mobile-only, cloud-only and collaborative",
) -> Table:
    """One row a setup; accuracy, bytes sent for one inference, latency and energy for each network.

    `plans`: plan.json by link name, in the order of the columns. `measured` replaces figures of the profile
    by what was observed when the split really ran, by `candidate_key`: any of "accuracy" (0..1),
    "images" (how many that accuracy is of), "payload_bytes", "framed_bytes" (request as sent, framing
    included), "loopback_ms" (time on the client's clock, its server on this machine; a column of its own).
    Raises ReportError when there is no plan, or when the plans do not rank the same candidates.
    """
    if not plans:
        raise ReportError("a table of setups needs a plan for at least one network")
    measured = measured or {}
    by_link = {
        link: {candidate_key(candidate): candidate for candidate in plan["ranking"]} for link, plan in plans.items()
    }
    candidates = ordered_candidates(profile, next(iter(plans.values())))
    for link, known in by_link.items():
        if set(known) != {candidate_key(candidate) for candidate in candidates}:
            raise ReportError(
                f"the plan for {link} ranks other candidates than the first; make them of one profile"
            )
    with_loopback = any("loopback_ms" in figures for figures in measured.values())

    columns = [
        Column("setup", "setup"),
        Column("accuracy", "accuracy", "%"),
        Column("payload_bytes", "payload", "B", "offloaded"),
        Column("framed_bytes", "framed", "B", "offloaded"),
    ]
    if with_loopback:
        columns.append(Column("loopback_ms", "latency", "ms", "loopback"))
    for link, plan in plans.items():
        columns.append(Column(f"latency_{link}_ms", "latency", "ms", link_title(plan)))
        columns.append(Column(f"energy_{link}_mj", "energy", "mJ", link_title(plan)))

    rows = []
    for candidate in candidates:
        key = candidate_key(candidate)
        figures = measured.get(key, {})
        row = [
            Cell(candidate_title(candidate)),
            _observed(figures, "accuracy", _labelled(candidate, "accuracy", "measured")),
            *_bytes_cells(candidate, figures),
        ]
        if with_loopback:
            row.append(_observed(figures, "loopback_ms", Cell(None)))
        for link in plans:
            row += [_labelled(by_link[link][key], name) for name in ("latency_ms", "energy_mj")]
        rows.append(tuple(row))
    first = len(columns) - 2 * len(plans)
    note = "; ".join(filter(None, [_note(profile, measured), plan_emulation_words(next(iter(plans.values())))]))
    return Table(title, tuple(columns), with_best(rows, range(first, len(columns))), note=note)


def _labelled(candidate: Values, name: str, default: str = "") -> Cell:
    """A candidate's figure with its origin; None stays None."""
    value = candidate.get(name)
    if value is None:
        return Cell(None)
    origin = candidate["origins"].get(name, default)
    if not origin:
        raise ReportError(f"the plan does not say where {name} of {candidate_title(candidate)} comes from")
    return Cell(value, origin)


def _observed(figures: Mapping[str, float], name: str, otherwise: Cell) -> Cell:
    return Cell(figures[name], "measured") if name in figures else otherwise


def _bytes_cells(candidate: Values, figures: Mapping[str, float]) -> list[Cell]:
    """Payload and framed bytes. The plan's offloaded bytes are framed where the framing is known."""
    payload, offloaded = candidate["payload_bytes"], candidate["offloaded_bytes"]
    framed = Cell(offloaded, "measured") if offloaded > payload or not payload else Cell(None)
    return [
        _observed(figures, "payload_bytes", Cell(payload, "measured")),
        _observed(figures, "framed_bytes", framed),
    ]


def _note(profile: Values, measured: Mapping[Key, Mapping[str, float]]) -> str:
    counts = {int(figures["images"]) for figures in measured.values() if "images" in figures}
    note = f"{held_out_words(profile, min(counts, default=None))}; offloaded bytes: mean of one inference"
    if any("loopback_ms" in figures for figures in measured.values()):
        note += "; loopback: median on the client's clock, its server in another process of this machine"
    return note


def held_out_words(profile: Values, images: int | None = None) -> str:
    """What accuracies were measured on: 'accuracy on 360 held-out images of digits'; `images` if not on all."""
    told = [entry["accuracy"] for entry in profile["bundles"] if entry["accuracy"] is not None]
    if not told:
        return "accuracy: nobody measured one"
    number = images if images is not None else told[0].get("images")
    count = "" if number is None else f"{number:,} "
    return f"accuracy on {count}held-out images of {told[0]['data']}"


def plan_table(plan: Values) -> Table:
    """Every candidate of a plan, best first, with the terms its latency and its energy are made of."""
    terms_ms, terms_mj = term_names(plan, "terms_ms"), term_names(plan, "terms_mj")
    columns = [
        Column("candidate", "candidate"),
        Column("accuracy", "accuracy", "%"),
        Column("offloaded_bytes", "offloaded", "B"),
        *(Column(f"{term}_ms", term, "ms", "latency") for term in terms_ms),
        Column("latency_ms", "sum", "ms", "latency"),
        *(Column(f"{term}_mj", term, "mJ", "energy") for term in terms_mj),
        Column("energy_mj", "sum", "mJ", "energy"),
    ]
    rows = [
        (
            Cell(candidate_title(candidate)),
            _labelled(candidate, "accuracy", "measured"),
            _labelled(candidate, "offloaded_bytes", "measured"),
            *(_term(candidate, term, "ms") for term in terms_ms),
            _labelled(candidate, "latency_ms"),
            *(_term(candidate, term, "mj") for term in terms_mj),
            _labelled(candidate, "energy_mj"),
        )
        for candidate in plan["ranking"]
    ]
    sums = [index for index, column in enumerate(columns) if column.key in ("latency_ms", "energy_mj")]
    title = f"{link_title(plan)}: candidates, best {plan['objective']} first"
    return Table(title, tuple(columns), with_best(rows, sums), note=plan_emulation_words(plan))


def plan_emulation_words(plan: Values) -> str:
    """How far to trust the emulated times of a plan; nothing where all were measured."""
    assumptions = plan.get("assumptions", {})
    told = [emulation_words(assumptions.get(f"{side}_emulation")) for side in ("device", "server")]
    return "; ".join(dict.fromkeys(words for words in told if words))


def term_names(plan: Values, terms: str) -> list[str]:
    """The terms ("terms_ms", "terms_mj") that occur in a plan, in the order of an inference."""
    present = {name for candidate in plan["ranking"] for name in candidate[terms]}
    return [name for name in TERMS if name in present] + sorted(present - set(TERMS))


def term_origin(candidate: Values, term: str, unit: str) -> str:
    """Where a term ("uplink") of a candidate comes from; `unit` is "ms" or "mj". Raises ReportError if unsaid."""
    origin = candidate["origins"].get(f"{term}_{unit}")
    if not origin:
        raise ReportError(f"the plan does not say where {term}_{unit} of {candidate_title(candidate)} comes from")
    return str(origin)


def _term(candidate: Values, term: str, unit: str) -> Cell:
    value = candidate[f"terms_{unit}"].get(term)
    return Cell(None) if value is None else Cell(value, term_origin(candidate, term, unit))


def chosen_sentence(plan: Values) -> str:
    """The plan's first choice in one sentence: 'collaborative at rb1: 4.21 ms (measured+modelled), ...'."""
    best = plan["ranking"][0]
    figures = [
        f"{number_text(best[name], unit)} {unit} ({best['origins'][name]})"
        for name, unit in (("latency_ms", "ms"), ("energy_mj", "mJ"))
    ]
    return f"{candidate_title(best)}: {', '.join(figures)}"


PERCENTILES = ("mean_ms", "min_ms", "p50_ms", "p90_ms", "p95_ms", "p99_ms", "max_ms")


def phases_table(profile: Values, title: str = "Phases") -> Table:
    """One row for each bundle and phase: how many samples, and their percentiles in ms.

    A percentile without enough samples is empty.
    """
    columns = (
        Column("phase", "phase"),
        Column("bundle", "bundle"),
        Column("samples", "samples"),
        *(Column(name, name[: -len("_ms")], "ms") for name in PERCENTILES),
    )
    rows = []
    for entry in profile["bundles"]:
        for phase, timed in entry["phases"].items():
            summary = timed["summary"]
            cells = [
                Cell(None) if summary.get(name) is None else Cell(summary[name], timed["origin"])
                for name in PERCENTILES
            ]
            rows.append((Cell(phase), Cell(str(entry["bundle"]["name"])), Cell(str(summary["count"])), *cells))
    return Table(title, columns, tuple(rows), note=emulation_words(profile.get("emulation")))


def emulation_words(emulation: Values | None) -> str:
    """How far to trust emulated times: what they were fitted to, and the errors at what the fit had not seen.

    Nothing for times that were measured.
    """
    if emulation is None:
        return ""
    errors = emulation["leave_one_out"]
    return (
        f"emulated {emulation['target']}, {emulation['mode']}, {emulation['precision']}: a roofline fitted to "
        f"{errors['points']} published times; leave-one-out error: median {100 * errors['median_error']:.0f} %, "
        f"worst {100 * errors['worst_error']:.0f} % ({errors['worst_network']})"
    )
