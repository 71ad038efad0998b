"""The agent: the device island as one file that Python 3.6 runs, `bottlekit-agent.pyz`.

::

    bottlekit/__init__.py, bottlekit/device/**.py --zip--> bottlekit-agent.pyz

The same sources give the same bytes, whoever packs them and whenever: so its hash says what is on a device.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import bottlekit
from bottlekit.device.files import sha256_of_file, whole_file
from bottlekit.device.kernels import PACKAGED, kernel_sources

AGENT_NAME = "bottlekit-agent.pyz"
MAX_BYTES = 1_000_000

_SHEBANG = b"#!/usr/bin/env python3\n"
_MAIN = b"""import sys

from bottlekit.device.agent import main

sys.exit(main(sys.argv[1:]))
"""
# The earliest time that a zip file can say.
_TIME = (1980, 1, 1, 0, 0, 0)
_UNIX = 3


def pack_agent(path: Path) -> str:
    """Write the agent to `path`, whole, and return its SHA-256; UsageError where it cannot be written."""
    with whole_file(str(path)) as temporary:
        with open(temporary, "wb") as file:
            file.write(_SHEBANG)
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
                for name, content in sorted(agent_files().items()):
                    entry = zipfile.ZipInfo(name, _TIME)
                    entry.create_system = _UNIX
                    entry.external_attr = 0o644 << 16
                    entry.compress_type = zipfile.ZIP_DEFLATED
                    archive.writestr(entry, content)
        sha256 = sha256_of_file(temporary)
    path.chmod(path.stat().st_mode | 0o111)
    return sha256


def agent_files() -> dict[str, bytes]:
    """What the agent holds, by name: the island's sources, its kernels', the package, and what starts it."""
    package = Path(bottlekit.__file__).parent
    sources = [package / "__init__.py", *(package / "device").rglob("*.py")]
    files = {str(Path("bottlekit") / source.relative_to(package)): source.read_bytes() for source in sources}
    kernels = {
        f"bottlekit/device/{PACKAGED}/{name}": text.encode("utf-8") for name, text in kernel_sources().items()
    }
    return {**files, **kernels, "__main__.py": _MAIN}
