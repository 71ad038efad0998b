"""The tree of errors. Every message says what was asked, what exists, and what to do.

BottlekitError                  exit code 1: it was asked for rightly, and failed
+-- UsageError                  exit code 2: what was asked for does not exist or does not fit
|   +-- UnknownNameError        a name that is not in a list: the message shows the list
+-- DataError                   an image or a data set that cannot be read
+-- CheckpointError             weights that cannot be read, or belong to another network
+-- BundleError                 a bundle that is missing, changed after export, or of another format
+-- CodecError                  settings a codec cannot work with
|   +-- PayloadError            bytes that are no payload of this bundle
+-- EquivalenceError            a graph that does not compute what the network computes
+-- TargetError                 this machine cannot build for, or run, that target
+-- EngineError                 an engine that fails to build, load or run, or gives other outputs
+-- WireError                   the conversation between client and server
|   +-- ServerUnreachableError  nobody answers at that address
|   +-- AddressInUseError       somebody else listens there
|   +-- RemoteError             the server answered with an error
|       +-- ServerBusyError     it is at a limit of its own: later it may answer
|       +-- DeadlineError       the request's time was over before its work was done
|       +-- IdentityError       it does not know who asks, or does not let that one in
+-- PlanError                   no choice satisfies the request
|   +-- InfeasibleError         bounds that no schedule keeps: says how close one comes
+-- ReportError                 a profile or plan that cannot be read or compared
+-- MeterError                  power that cannot be measured here
    +-- ReadingError            a sensor that stopped during a measurement, or gave what no sensor measures
"""

from typing import Dict, Iterable, Optional


class BottlekitError(Exception):
    """Any error that bottlekit raises on purpose."""

    exit_code = 1


class UsageError(BottlekitError):
    """What was asked for does not exist or does not fit."""

    exit_code = 2


class UnknownNameError(UsageError):
    """A name that is not in a list of known ones."""

    def __init__(self, kind: str, asked: str, known: Iterable[object], hint: str = "") -> None:
        self.kind = kind
        self.asked = asked
        self.known = list(known)
        message = "{} '{}' does not exist; there are: {}".format(
            kind, asked, ", ".join(str(name) for name in self.known) or "none"
        )
        super().__init__(message + ("." + " " + hint if hint else ""))


class DataError(BottlekitError):
    """An image or a data set that cannot be read."""


class CheckpointError(BottlekitError):
    """Weights that cannot be read, or that belong to another network."""


class BundleError(BottlekitError):
    """A bundle that is missing, was changed after export, or is of another format."""


class CodecError(BottlekitError):
    """Settings or features that a codec cannot work with."""


class PayloadError(CodecError):
    """Bytes that are no payload of this bundle."""


class EquivalenceError(BottlekitError):
    """A graph that does not compute what the network computes."""


class TargetError(BottlekitError):
    """This machine cannot build for, or run, that target."""


class EngineError(BottlekitError):
    """An engine that fails to build, load or run, or whose outputs are wrong."""


class WireError(BottlekitError):
    """The conversation between client and server failed."""


class ServerUnreachableError(WireError):
    """Nobody answers at that address."""


class AddressInUseError(WireError):
    """Somebody else listens at that address."""


class RemoteError(WireError):
    """The server answered with an error."""


class ServerBusyError(RemoteError):
    """The server is at one of its limits; the same request may be answered later."""


class DeadlineError(RemoteError):
    """The request's deadline passed before the server had done its work."""


class IdentityError(RemoteError):
    """The server does not know who asks, or does not let that one in."""


class PlanError(BottlekitError):
    """No choice satisfies the request."""


class InfeasibleError(PlanError):
    """Bounds that no schedule keeps. `least`: for each of them, by name, the least value that can be reached."""

    def __init__(self, message: str, least: Optional[Dict[str, float]] = None) -> None:
        super().__init__(message)
        self.least = least or {}


class ReportError(BottlekitError):
    """A profile or plan that cannot be read or compared."""


class MeterError(BottlekitError):
    """Power that cannot be measured here: no sensor, no permission, or no service."""


class ReadingError(MeterError):
    """A sensor that stopped during a measurement, or gave what no sensor measures."""


def error_from_words(kind: str, message: str) -> BottlekitError:
    """An error that another process told by its class and its words, as it was there.

    Names that no class has become EngineError, as it is engines that are built and measured in other processes.
    """
    found = globals().get(kind)
    if not isinstance(found, type) or not issubclass(found, BottlekitError):
        return EngineError(message)
    # An unknown name takes more than words to make; it is a wrong use all the same.
    return UsageError(message) if found is UnknownNameError else found(message)
