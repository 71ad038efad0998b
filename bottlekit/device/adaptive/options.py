"""What a device can do with an image, what each way costs, and their order: a copy of the planner in small.

    profile.json (+ the server's) --options_from_profile--> options --ranked, with the link and loads--> best first

    latency = device * device_load + bytes / rate + rtt + server * server_load

It is the formula of `bottlekit.planning.selection`, which Python 3.6 cannot import; tests prove that they agree.
"""

from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Tuple

from ..bundle import Bundle
from ..errors import BundleError, ReportError
from ..fields import Fields

MOBILE_ONLY = "mobile-only"

_MOST_MS = 1e9
_MOST_BYTES = 1e12


class Option(NamedTuple):
    """A way to classify an image. Times in ms hold at no load; `offloaded_bytes` is what the radio sends.

    `name` is the split's, or "mobile-only"; `bundle` its bundle's name; `part` what the device runs of that:
    "head", or the whole network, "baseline" or "full". `server_ms` is None where the server has nothing to do.
    `offload_share` of the images are sent; below 1 where an exit lets some leave.
    """

    name: str
    bundle: str
    part: str
    split_index: int
    device_ms: float
    server_ms: Optional[float]
    offloaded_bytes: float
    offload_share: float = 1.0

    @property
    def is_remote(self) -> bool:
        """Whether a server takes part."""
        return self.server_ms is not None


class Terms(NamedTuple):
    """An option with its predicted times in ms: "device", and for a remote one "uplink", "rtt" and "server"."""

    option: Option
    terms_ms: Dict[str, float]

    @property
    def latency_ms(self) -> float:
        """The sum of the times."""
        return sum(self.terms_ms.values())


def predicted(
    option: Option, rtt_ms: float, ms_per_byte: float, device_load: float = 1.0, server_load: float = 1.0
) -> Terms:
    """What an option is going to take on a link, on average over images that leave and images that are sent; the
    loads are factors on the profiled times."""
    terms = {"device": option.device_ms * device_load}
    if option.server_ms is not None:
        terms["uplink"] = option.offload_share * option.offloaded_bytes * ms_per_byte
        terms["rtt"] = option.offload_share * rtt_ms
        terms["server"] = option.offload_share * option.server_ms * server_load
    return Terms(option, terms)


def ranked(found: Iterable[Terms]) -> List[Terms]:
    """Best first; of equal ones collaborative before mobile-only, then the earlier split."""
    return sorted(
        found, key=lambda one: (one.latency_ms, not one.option.is_remote, one.option.split_index, one.option.name)
    )


def options_from_profile(
    profile: Dict[str, Any],
    bundles: List[Bundle],
    server_profile: Optional[Dict[str, Any]] = None,
    where: str = "the profile",
    server_where: str = "the server's profile",
) -> List[Option]:
    """One option for each bundle, and mobile-only last.

    Device times are medians of `profile`, server times of `server_profile` or, without one, of `profile`.
    Mobile-only is the uncompressed network, or the bottlenecked one in one piece where no bundle has that. Raises
    ReportError for profiles that do not fit the fleet or were written by something else, and says which value is
    wrong.
    """
    try:
        here = _entries(profile, where)
        there = here if server_profile is None else _entries(server_profile, server_where)
        options = []
        for bundle in bundles:
            device = _entry_of(bundle, here, where)
            server = _entry_of(bundle, there, server_where if there is not here else where)
            options.append(
                Option(
                    name=bundle.split["name"],
                    bundle=bundle.name,
                    part="head",
                    split_index=bundle.split["index"],
                    device_ms=_median_ms(device, "head") + _median_ms(device, "encode"),
                    server_ms=_median_ms(server, "decode") + _median_ms(server, "tail"),
                    offloaded_bytes=_offloaded_bytes(device),
                )
            )
        options.append(_mobile_only(bundles, here, where))
    except BundleError as error:  # what Fields raises: the file is a profile here
        raise ReportError("{}; run `bottlekit bench` again".format(error))
    names = [option.name for option in options]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ReportError(
            "the fleet has more than one bundle for {}; keep one for each split".format(", ".join(twice))
        )
    return options


def _entries(profile: Dict[str, Any], where: str) -> Dict[Tuple[str, str], Fields]:
    """The bundles of a profile by name and hash."""
    fields = Fields(profile, where)
    if fields.any("format") != "bottlekit-profile" or fields.any("version") != 1:
        raise ReportError("{} is no profile that this bottlekit reads; `bottlekit bench` writes one".format(where))
    listed = fields.any("bundles")
    if not isinstance(listed, list) or not listed:
        raise ReportError("{} is a profile without bundles; run `bottlekit bench` again".format(where))
    found = {}
    for number, entry in enumerate(listed, 1):
        one = Fields(entry, "{}, bundle {}".format(where, number))
        identity = one.object("bundle")
        found[identity.text("name"), identity.text("sha256")] = one
    return found


def _entry_of(bundle: Bundle, entries: Dict[Tuple[str, str], Fields], where: str) -> Fields:
    if (bundle.name, bundle.sha256) in entries:
        return entries[bundle.name, bundle.sha256]
    names = sorted(name for name, _ in entries)
    if bundle.name in names:
        raise ReportError(
            "{} measured another export of {}; bench the fleet that is used here".format(where, bundle.name)
        )
    raise ReportError(
        "{} does not have {}; it has: {}. Run `bottlekit bench` on the whole fleet".format(
            where, bundle.name, ", ".join(names)
        )
    )


def _mobile_only(bundles: List[Bundle], entries: Dict[Tuple[str, str], Fields], where: str) -> Option:
    for part in ("baseline", "full"):
        for bundle in bundles:
            entry = _entry_of(bundle, entries, where)
            if part in bundle.parts and entry.object("phases").values.get(part) is not None:
                return Option(MOBILE_ONLY, bundle.name, part, 0, _median_ms(entry, part), None, 0.0)
    raise ReportError(
        "{} did not measure the whole network, which is what is left when the server is lost; "
        "run `bottlekit bench` with its phases baseline or full".format(where)
    )


def _median_ms(entry: Fields, phase: str) -> float:
    # A nanosecond: nothing that was measured takes no time.
    return entry.object("phases").object(phase).object("summary").number("p50_ms", 1e-6, _MOST_MS)


def _offloaded_bytes(entry: Fields) -> float:
    payload = entry.object("payload_bytes").number("mean", 1.0, _MOST_BYTES)
    if entry.values.get("framed_bytes") is None:
        return payload
    return payload + entry.object("framed_bytes").number("overhead", 0.0, _MOST_BYTES)
