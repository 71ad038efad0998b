"""Who may use a server, and what they are called: certificates, tokens, or anybody on this machine."""

import hashlib
import ipaddress
import os
import ssl
from typing import Any, Dict, Optional

from .errors import IdentityError, UsageError
from .fields import is_safe_name
from .wire.tls import name_from_certificate, revoked_bytes, server_context

MIN_TOKEN_CHARACTERS = 16
MAX_TOKEN_CHARACTERS = 128
_MAX_TOKEN_FILE_BYTES = 1 << 20


class Access:
    """What a server asks of those who connect.

    `tls_folder` (see wire/tls.py): they must have a certificate, and its common name is theirs. `token_file`:
    their hello must hold one of its tokens, and they are called as the file calls its owner; this is for where
    something in front of the server ends TLS. With neither, they are called by their address.

    The files are read when this is made; make another to read them again. Raises UsageError.
    """

    def __init__(self, tls_folder: Optional[str] = None, token_file: Optional[str] = None) -> None:
        self._tls_folder = tls_folder
        self._token_file = token_file
        self.context: Optional[ssl.SSLContext] = server_context(tls_folder) if tls_folder else None
        self.revoked: Optional[bytes] = revoked_bytes(tls_folder) if tls_folder else None
        self._names = _names_by_digest(token_file) if token_file else None

    @property
    def is_open(self) -> bool:
        """Whether anybody who reaches the port may use it."""
        return self.context is None and self._names is None

    def again(self) -> "Access":
        """The same with the files as they are now."""
        return Access(self._tls_folder, self._token_file)

    def name(self, certificate: Any, token: Any, address: str) -> str:
        """What whoever says hello is called. Raises IdentityError for a token that is missing or unknown."""
        named = name_from_certificate(certificate)
        if self._names is None:
            return named or address
        if not token:
            raise IdentityError("this server asks for a token; give the one that its operator made for you")
        by_token = self._names.get(_digest(token if isinstance(token, bytes) else str(token).encode("utf-8")))
        if by_token is None:
            raise IdentityError("this server does not know the token; ask its operator for another")
        return named or by_token


def check_may_listen(address: str, access: Access, insecure: bool, what: str = "--host") -> None:
    """Raise UsageError for an address that others can reach while nothing keeps them out, unless told to."""
    if insecure or not access.is_open or ipaddress.ip_address(address.split("%")[0]).is_loopback:
        return
    raise UsageError(
        "{} {} is open to other machines, and nothing would encrypt or ask who they are: give --tls FOLDER "
        "(bottlekit certs makes it), or --tokens FILE behind something that ends TLS, or say --insecure".format(
            what, address
        )
    )


def token_from_file(path: str) -> bytes:
    """A device's token: the only line of a file. Raises UsageError."""
    return _checked_token(_text(path).strip(), path)


def _names_by_digest(path: str) -> Dict[bytes, str]:
    """Names by the digest of their token, from lines of NAME TOKEN. Looking digests up tells a guesser nothing."""
    names: Dict[bytes, str] = {}
    for number, line in enumerate(_text(path).splitlines(), start=1):
        where = "{}, line {}".format(path, number)
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2 or not is_safe_name(words[0]):
            raise UsageError("{}: a line is a name, a space and a token, like: tx2-01 3f9a...".format(where))
        digest = _digest(_checked_token(words[1], where))
        if digest in names:
            raise UsageError("{}: {} has the same token; each needs its own".format(where, names[digest]))
        names[digest] = words[0]
    if not names:
        raise UsageError("{} holds no token; a line is a name, a space and a token".format(path))
    return names


def _checked_token(token: str, where: str) -> bytes:
    data = token.encode("utf-8")
    if not MIN_TOKEN_CHARACTERS <= len(data) <= MAX_TOKEN_CHARACTERS or len(token.split()) != 1:
        raise UsageError(
            "{}: a token is one word of {} to {} characters; make one with: openssl rand -hex 24".format(
                where, MIN_TOKEN_CHARACTERS, MAX_TOKEN_CHARACTERS
            )
        )
    return data


def _text(path: str) -> str:
    try:
        if os.path.getsize(path) > _MAX_TOKEN_FILE_BYTES:
            raise UsageError("{} is too large for a file of tokens".format(path))
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError("the tokens in {} cannot be read: {}".format(path, error))


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
