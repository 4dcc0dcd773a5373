"""Names that a URL gives: of its file, and of the variable with its credentials. No I/O.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import posixpath
import re
import urllib.parse

AUTHORIZATION = "FETCH_AUTHORIZATION_"


def authorization_name(host: str) -> str:
    """The variable with the credentials for a host."""
    return AUTHORIZATION + re.sub(r"[^A-Za-z0-9]", "_", host).upper()


def file_name(url: str) -> str:
    """What the file is called."""
    path = urllib.parse.urlsplit(url).path
    return urllib.parse.unquote(posixpath.basename(path))


def shown(url: str) -> str:
    """A URL for people: without user, password, parameters."""
    parts = urllib.parse.urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
