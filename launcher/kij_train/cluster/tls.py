"""TLS to an API server: whom it trusts, and the certificate that it shows."""

from __future__ import annotations

import os
import ssl
import tempfile
from pathlib import Path


def tls_context(
    *, authority: bytes | None = None, insecure: bool = False, certificate: bytes = b""
) -> ssl.SSLContext:
    """`authority` is PEM, the system's own if None; `certificate` is PEM with its key.

    Raises ssl.SSLError, ValueError for what is no PEM, OSError without a place for a file.
    """
    # Not ssl.create_default_context: from Python 3.13 on it refuses certificate authorities that
    # Kubernetes' own tools have made, and that kubectl takes.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif authority is None:
        context.load_default_certs()
    else:
        context.load_verify_locations(cadata=authority.decode("ascii", "ignore"))
        # Go trusts what it is given, also where that is no root.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if certificate:
        _load(context, certificate)
    return context


def _load(context: ssl.SSLContext, certificate: bytes) -> None:
    """OpenSSL takes a key from a file alone; it lives as long as this call."""
    handle, name = tempfile.mkstemp()
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(certificate)
        # Without a password OpenSSL would ask the terminal for that of an encrypted key.
        context.load_cert_chain(name, password=b"")
    finally:
        Path(name).unlink()
