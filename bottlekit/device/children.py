"""Child processes that run modules of this package."""

import os
from typing import Dict


def child_environment(**changes: str) -> Dict[str, str]:
    """The variables for a child process that shall find this package: in a folder, or in a zip file."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    variables = dict(os.environ, **changes)
    variables["PYTHONPATH"] = os.pathsep.join(path for path in (root, variables.get("PYTHONPATH")) if path)
    return variables
