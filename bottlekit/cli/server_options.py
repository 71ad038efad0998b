"""What a server may ask for, as options of every verb that talks to one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

TlsOption = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Encrypt, and prove who this is: what `bottlekit certs device` made."),
]
ServerNameOption = Annotated[
    str | None, typer.Option(help="The name in the server's certificate, where it is not HOST.")
]
TokenFileOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="The token for a server that asks for one.")
]
