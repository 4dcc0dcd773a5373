"""Credentials are taken out of every text that may be shown.

Errors are written so that they hold none. This is the second wall, for words that others have
written: exceptions of libraries, tracebacks, what a credential plugin or a proxy says.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

SHORTEST = 6
"""Shorter ones would be found in words that say nothing."""
_known: set[str] = set()
CREDENTIAL_PARAMETER = (
    r"(?i:(?:[\w.%-]*[-_.])?(?:sig|signature|token|password|passwd|secret|key|apikey|credential"
    r"|auth|authorization))"
)
"""Names of parameters of a URL that grant access: of presigned URLs, and of tokens."""
_PARAMETER = re.compile(rf"(?<=[?&])({CREDENTIAL_PARAMETER})=[^&#\s'\":]+")
USER_OF_URL = (
    r"(?:[^/?#\s'\"@]+"
    r"|[^/?#\s'\"@:\[]+:(?!\$\{|\d*(?:[/?#\s'\"]|$))[^\s'\"@]*)(?=@)"
)
"""What stands between :// and @. A password with a '/', which should be %2F there, is told by what
follows ':': it is no port."""
_USER_OF_URL = re.compile(rf"(?<=://){USER_OF_URL}@")


def keep_secret(*values: str) -> None:
    """From now on, `redacted` replaces these values and each of their lines."""
    _known.update(_parts(values))


def _parts(values: Iterable[str]) -> set[str]:
    parts = {part for value in values for part in (value, value.strip(), *value.split("\n"))}
    return {part for part in parts if len(part.strip()) >= SHORTEST}


def redacted(text: str, *also: str) -> str:
    """The text without what is known to be secret, and without what grants access in any URL.

    `also` is secret in this text alone.
    """
    for secret in sorted(_known | _parts(also), key=len, reverse=True):
        text = text.replace(secret, "***")
    return _PARAMETER.sub(r"\1=***", _USER_OF_URL.sub("***@", text))
