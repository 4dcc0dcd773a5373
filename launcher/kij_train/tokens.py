"""The forms of keys, tokens and passwords, told in any text. No I/O.

A form is a private key with its body, or a token as its issuer documents it: with a prefix that
says whose it is and at least as long as real ones are, so that code which only speaks of tokens is
not taken for one. A pattern begins with what is always there, and every run in it has a longest
length: the time to search is proportional to the text.
"""

from __future__ import annotations

import re
from functools import cache

# Kind, what is always there, the form.
_TOKENS = (
    ("a GitHub token", rb"gh[pousr]_", rb"[A-Za-z0-9]{36,251}"),
    ("a GitHub token", rb"github_pat_", rb"[A-Za-z0-9]{22}_[A-Za-z0-9]{59}"),
    ("a GitLab token", rb"gl(?:pat|dt|rt|ptt|ft|soat)-", rb"[\w-]{20,50}"),
    ("a Hugging Face token", rb"hf_", rb"[A-Za-z0-9]{34,40}"),
    ("a W&B key", rb"wandb_v1_", rb"[\w-]{40,200}"),
    # Behind the word, but for commits, as requirements and addresses name them.
    (
        "a W&B key",
        rb"(?i:wandb)",
        rb"(?:(?!commit|sha|rev|hash|digest)[^/@#]){1,60}?(?<![0-9A-Za-z])[0-9a-f]{40}(?!\w)",
    ),
    ("an OpenAI key", rb"sk-", rb"[\w-]{20,160}T3BlbkFJ[\w-]{20,160}"),
    ("an Anthropic key", rb"sk-ant-", rb"[a-z]{3,6}\d\d-[\w-]{80,120}"),
    ("an NVIDIA key", rb"nvapi-", rb"[\w-]{60,70}"),
    ("a Replicate token", rb"r8_", rb"[A-Za-z0-9]{37}"),
    ("a Groq key", rb"gsk_", rb"[A-Za-z0-9]{52}"),
    ("an AWS key", rb"A(?:KI|SI)A", rb"(?![A-Z0-9]{9}EXAMPLE)[A-Z2-7][A-Z0-9]{15}"),
    ("a Google key", rb"AIza", rb"[\w-]{35}"),
    ("a Google key", rb"GOCSPX-", rb"[\w-]{28}"),
    ("an Azure key", rb"AccountKey=", rb"[A-Za-z0-9+/]{86}=="),
    ("a Databricks token", rb"dapi", rb"[0-9a-f]{32}"),
    ("a DigitalOcean token", rb"do[opr]_v1_", rb"[0-9a-f]{64}"),
    ("a Docker token", rb"dckr_[po]at_", rb"[\w-]{27,32}"),
    ("a Slack token", rb"xox[abeoprs]-", rb"\d{1,20}-[\w-]{12,200}"),
    ("a Slack hook", rb"hooks\.slack\.com/services/", rb"T\w{6,20}/B\w{6,20}/\w{16,40}"),
    ("a Stripe key", rb"[rs]k_live_", rb"[0-9A-Za-z]{24,247}"),
    ("a SendGrid key", rb"SG\.", rb"[\w-]{22}\.[\w-]{43}"),
    ("a PyPI token", rb"pypi-AgE", rb"[\w-]{50,250}"),
    ("an npm token", rb"npm_", rb"[A-Za-z0-9]{36}"),
    (
        "a Kubernetes key",
        rb"client-key-data",
        rb"[\"']?\s{0,3}:\s{0,3}[\"']?[A-Za-z0-9+/=]{100}",
    ),
    # Of a subject 1234567890 is the one by which jwt.io explains them.
    (
        "a JSON Web Token",
        rb"eyJ",
        rb"[\w-]{8,300}\.(?!eyJzdWIiOiIxMjM0NTY3ODkwI)eyJ[\w-]{8,4000}\.[\w-]{20,1000}",
    ),
    ("an age key", rb"AGE-SECRET-KEY-1", rb"[A-Z0-9]{50,64}"),
    ("a PuTTY key", rb"PuTTY-User-Key-File-", rb"\d: [\w@.-]{3,60}\s{1,4}Encryption: "),
)
_DOCKER = (
    rb"\s{0,20}:\s{0,20}\{[\s\S]{0,1000}?\"auth\"\s{0,5}:\s{0,5}\"[A-Za-z0-9+/]{8,4000}={0,2}\""
)
# A word that stands for a password, and a machine that is an example or one's own.
_PLACEHOLDER = (
    rb"(?i:[\"'<\[{($%*]|(?:[a-z_-]{0,20}(?:user|username|pass|passwd|password)|pw|pwd|secret|token|test|example"
    rb"|changeme|postgres|mysql|root|admin|guest|default|my[-_]?\w{0,20}|your[-_]?\w{0,20})@"
    rb"|[^/\s@]{0,100}[{}<>$])"
)
_NEAR = (
    rb"(?i:localhost|127\.|0\.0\.0\.0|\[?::1|(?:[\w-]{1,63}\.){0,4}"
    rb"(?:example(?:\.(?:com|org|net))?|test|invalid|host|hostname)(?![\w.-]))"
)
_URL = (
    rb"(?<=[A-Za-z0-9+.-]://)(?P<user>[^/\s:@\"'<>]{0,100}):(?!(?P=user)@)(?!"
    + _PLACEHOLDER
    + rb")"
    rb"[^/\s:@\"'<>]{6,200}@(?!" + _NEAR + rb")[\w\[]"
)
_GAP = rb"(?:\s|\\r|\\n|[\"'+,]){1,80}"
_KEY = (
    rb"[A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
    rb"(?:" + _GAP + rb"[A-Za-z-]{1,40}: [^\n\\]{0,200}){0,6}" + _GAP + rb"(?:[A-Za-z0-9+/=]{16}"
    rb"|[A-Za-z0-9+/=]{1,64}" + _GAP + rb"-----END )"
)
# What ends before a token: an escape of JSON or of a URL ends in a letter or digit, too.
_BEGINS = rb"(?<![A-Za-z0-9])|(?<=\\[nrtbf0])|(?<=\\u[0-9A-Fa-f]{4})|(?<=%[0-9A-Fa-f]{2})"
# Kind, what is always there, what stands before it, the form behind it. To search for fixed bytes
# is fast; the rest is tried where they stand.
_FORMS: list[tuple[str, bytes, bytes, bytes]] = [
    ("a private key", rb"-----BEGIN ", rb"", _KEY),
    ("a Docker login", rb"\"auths\"", rb"", _DOCKER),
    *((kind, prefix, _BEGINS, form) for kind, prefix, form in _TOKENS),
    ("a password in a URL", rb"://", rb"", _URL),
]
_FEWEST_BYTES = 4
"""A placeholder, such as hf_xxxxxxxx, is made of fewer different ones behind its prefix."""

# A single value is not a text that speaks of tokens: there, less will do. None can begin inside of
# a match that failed.
_SHORT = tuple(
    re.compile(pattern)
    for pattern in (
        rb"hf_[A-Za-z0-9]{16}",
        rb"gh[pousr]_[A-Za-z0-9]{16}",
        rb"github_pat_\w{16}",
        rb"AKIA[A-Z0-9]{16}",
        rb"sk-[-A-Za-z0-9_]{16}",
        rb"xox[abprs]-[-A-Za-z0-9]{10}",
        rb"glpat-[-A-Za-z0-9_]{16}",
        rb"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----",
        rb"://(?<=[a-z0-9+.-]://)[^/\s:@]+:[^/\s@]+@",
    )
)

# What clusters, clouds and identity providers give to those who log in.
_OF_LOGINS = (
    rb"ey[AJ][-\w]{16}",  # a JWT: its header is JSON
    rb"k8s-aws-v1\.",
    rb"ASIA[A-Z0-9]{16}",
    rb"ya29\.",
    rb"sha256~",
    rb"hv[sbr]\.[-\w]{16}",
    rb"(?i:bearer)\s{1,9}[-\w.~+/=]{16}",
)
_TO_HIDE = re.compile(
    rb"(?:" + rb"|".join([*(each.pattern for each in _SHORT), *_OF_LOGINS]) + rb")\S*"
)


@cache
def _forms() -> list[tuple[str, re.Pattern[bytes], re.Pattern[bytes], re.Pattern[bytes]]]:
    """Compiled when the first text is searched, which most commands never do."""
    return [
        (kind, re.compile(prefix), re.compile(before), re.compile(form))
        for kind, prefix, before, form in _FORMS
    ]


def hidden(text: str) -> str:
    """Words of a stranger without what has the form of a token or a key."""
    content = text.encode(errors="surrogateescape")
    return _TO_HIDE.sub(b"***", content).decode(errors="surrogateescape")


def found_in(content: bytes) -> str | None:
    """What a text holds, such as "a GitHub token"; None where it holds no credential."""
    for kind, prefix, before, form in _forms():
        for start in prefix.finditer(content):
            if before.match(content, start.start()) is None:
                continue
            found = form.match(content, start.end())
            if found is None:
                continue
            if len(set(content[start.start() : found.end()][-20:])) >= _FEWEST_BYTES:
                return kind
    return None


def is_in_value(value: str) -> bool:
    """Whether a variable, argument or annotation holds a credential, or what looks like one."""
    content = value.encode(errors="surrogateescape")
    return any(pattern.search(content) for pattern in _SHORT) or found_in(content) is not None
