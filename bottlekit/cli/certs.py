"""The verbs `bottlekit certs init`, `server`, `device`, `revoke` and `list`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bottlekit.cli.common import JsonOption, QuietOption, emit, say, set_quiet

certs = typer.Typer(
    help="Certificates for a server and its devices, from an authority of your own.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

FolderArgument = Annotated[Path, typer.Argument(metavar="FOLDER", help="The authority's folder.")]
DaysOption = Annotated[int, typer.Option(help="How long the certificate is good.")]


@certs.command()
def init(
    folder: FolderArgument,
    quiet: QuietOption = False,
) -> None:
    """Make a certificate authority in a new folder. Its ca.key never has to leave it.

    bottlekit certs init pki
    """
    from bottlekit.serving.certs import init_authority

    set_quiet(quiet)
    init_authority(folder)
    say(f"made {folder}; next: bottlekit certs server {folder} NAME, and: bottlekit certs device {folder} NAME")


@certs.command()
def server(
    folder: FolderArgument,
    name: Annotated[str, typer.Argument(help="What the server is called.")],
    host: Annotated[
        list[str] | None,
        typer.Option("--host", help="A name or address that devices ask by; may be given again. NAME without it."),
    ] = None,
    days: DaysOption = 730,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Make a server's certificate: the folder for `bottlekit serve --tls`.

    bottlekit certs server pki lab --host lab.example.org --host 192.168.1.5
    """
    from bottlekit.serving.certs import issue

    set_quiet(quiet)
    out = issue(folder, "server", name, tuple(host or [name]), days)
    emit({"folder": str(out)}, lambda: print(out), as_json)
    say(f"give this folder to the server, and nobody else: bottlekit serve FLEET --tls {out.name}")


@certs.command()
def device(
    folder: FolderArgument,
    name: Annotated[str, typer.Argument(help="What the device is called, in logs and limits.")],
    days: DaysOption = 730,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Make a device's certificate: the folder for `bottlekit infer --tls`.

    bottlekit certs device pki tx2-01
    """
    from bottlekit.serving.certs import issue

    set_quiet(quiet)
    out = issue(folder, "device", name, (), days)
    emit({"folder": str(out)}, lambda: print(out), as_json)
    say(f"give this folder to the device, and nobody else: bottlekit infer FLEET IMAGE --tls {out.name}")


@certs.command()
def revoke(
    folder: FolderArgument,
    name: Annotated[str, typer.Argument(help="Whose certificate is no longer good.")],
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Revoke a certificate: its device is let in no more.

    Copy the revoked.pem that is printed to the server's folder, and tell the server to read it:

        kill -HUP PID
    """
    from bottlekit.serving.certs import revoke as revoke_certificate

    set_quiet(quiet)
    written = [str(path) for path in revoke_certificate(folder, name)]
    emit({"written": written}, lambda: print("\n".join(written)), as_json)
    say("copy revoked.pem to the servers, and tell each to read it: kill -HUP PID")


@certs.command(name="list")
def list_(folder: FolderArgument, as_json: JsonOption = False, quiet: QuietOption = False) -> None:
    """Show the certificates that were made.

    bottlekit certs list pki
    """
    from bottlekit.serving.certs import issued_certificates

    set_quiet(quiet)
    made = issued_certificates(folder)

    def show() -> None:
        for one in made:
            state = f"revoked {one['revoked']}" if one["revoked"] else f"good until {one['not_after']}"
            print(f"{one['kind']:7} {one['name']:24} {state}")

    emit({"certificates": made}, show, as_json)
