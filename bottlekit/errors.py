"""The errors of bottlekit, for everybody outside the device island.

They live in `bottlekit.device.errors`, where the tree is drawn, because the island imports nothing of
bottlekit but itself and raises most of them.
"""

from bottlekit.device.errors import (
    AddressInUseError,
    BottlekitError,
    BundleError,
    CheckpointError,
    CodecError,
    DataError,
    DeadlineError,
    EngineError,
    EquivalenceError,
    IdentityError,
    InfeasibleError,
    MeterError,
    PayloadError,
    PlanError,
    ReadingError,
    RemoteError,
    ReportError,
    ServerBusyError,
    ServerUnreachableError,
    TargetError,
    UnknownNameError,
    UsageError,
    WireError,
)

__all__ = [
    "AddressInUseError",
    "BottlekitError",
    "BundleError",
    "CheckpointError",
    "CodecError",
    "DataError",
    "DeadlineError",
    "EngineError",
    "EquivalenceError",
    "IdentityError",
    "InfeasibleError",
    "MeterError",
    "PayloadError",
    "PlanError",
    "ReadingError",
    "RemoteError",
    "ReportError",
    "ServerBusyError",
    "ServerUnreachableError",
    "TargetError",
    "UnknownNameError",
    "UsageError",
    "WireError",
]
