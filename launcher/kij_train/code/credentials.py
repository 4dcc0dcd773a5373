"""Files that hold credentials, told by their names and by what stands in them. No I/O.

Names are those under which tools keep credentials by their own documentation, and what editors and
people call copies of them. The forms of what stands in a file are in tokens.py.
"""

from __future__ import annotations

import fnmatch
import re

from kij_train import tokens

_NAMES = """
.env .env[-_.]* *.env .envrc .flaskenv env.prod env.production env.local env.dev env.development
env.staging env.secret env.secrets .secret .secrets .secrets.* secret.json secret.toml secret.yaml
secret.yml secret.ini secrets.json secrets.toml secrets.yaml secrets.yml secrets.ini secrets.cfg
secrets.conf .netrc _netrc netrc .git-credentials .gitcookies .pypirc .npmrc .htpasswd .pgpass
.my.cnf .mylogin.cnf .dockercfg .dockerconfigjson
.boto .s3cfg .s3cfg-* .rclone.conf rclone.conf .databrickscfg
.modal.toml .comet.config kaggle.json credentials.json client_secret*.json access_tokens.db
application_default_credentials.json credentials.db credentials.tfrc.json .terraformrc terraform.rc
terraform.tfstate *.tfstate *.tfstate.backup .vault-token .vault_pass* kubeconfig *.kubeconfig
kubeconfig.yaml kubeconfig.yml
id_rsa id_dsa id_ecdsa id_ecdsa_sk id_ed25519 id_ed25519_sk *.ppk *.p12 *.pfx *.jks *.keystore
*.kdbx .bash_history .zsh_history .python_history .psql_history .mysql_history
"""
_EXAMPLES = "*[-_.]example *[-_.]sample *[-_.]template *.dist example.env sample.env template.env"
_FOLDERS = """
.ssh .aws .azure .kube .gnupg .docker/config.json .kaggle .oci .password-store .terraform.d
.config/gcloud .config/gh .config/doctl .cargo/credentials .cargo/credentials.toml
.gem/credentials .huggingface/token huggingface/token huggingface/stored_tokens
"""
"""Files and folders that go by the folder that they are in, too; both count."""


def _any_of(globs: str) -> re.Pattern[str]:
    return re.compile("|".join(map(fnmatch.translate, globs.split())), re.IGNORECASE)


_NAME, _EXAMPLE = _any_of(_NAMES), _any_of(_EXAMPLES)
_PLACE = re.compile(
    rf"(?:.*/)?(?:{'|'.join(map(re.escape, _FOLDERS.split()))})", re.IGNORECASE | re.DOTALL
)
# Of editors, and of people who keep an old one: .env~, #.env#, .env.bak, "kaggle (1).json".
_BEFORE = re.compile(r"\.?#")
_BEHIND = re.compile(
    r"(?:[~#\s]|[-_.](?:bak|old|orig|save|backup|copy|tmp|sw[a-p])\d*|\.~?\d+)+\Z", re.IGNORECASE
)
_COUNTED = re.compile(r"(?: (?:- )?copy(?: \d+)?| ?\(\d+\))(?=\.|$)", re.IGNORECASE)
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
SNIFFED_BYTES = 1024
"""Of a file, by which text is told from what is none."""


def is_by_name(path: str) -> bool:
    """Whether a file or folder, by its path, is one where a tool keeps credentials, or a copy."""
    above, slash, name = path.rpartition("/")
    original = _original(name)
    if _EXAMPLE.fullmatch(original):
        return False
    # Vim puts a dot in front as well.
    names = dict.fromkeys((name, original, original.removeprefix(".")))
    return any(_NAME.fullmatch(each) or _PLACE.fullmatch(above + slash + each) for each in names)


def _original(name: str) -> str:
    """The name of what a file is a copy of, as far as its own name says it."""
    before = _BEFORE.match(name)
    name = _COUNTED.sub("", name[before.end() :] if before else name)
    behind = _BEHIND.search(name, 1)
    return name[: behind.start()] if behind else name


def is_text(beginning: bytes) -> bool:
    """Whether a file that begins so is searched."""
    return b"\0" not in beginning or _is_utf16(beginning)


def found_in(content: bytes) -> str | None:
    """What a text holds, such as "a GitHub token"; None where it holds no credential."""
    # All that credentials are made of is ASCII, which is UTF-16 with a NUL beside every byte.
    return tokens.found_in(content.replace(b"\0", b""))


def _is_utf16(beginning: bytes) -> bool:
    if beginning.startswith(_UTF16):
        return True
    return len(beginning) > 7 and any(
        not beginning[at:64:2].strip(b"\0") and b"\0" not in beginning[1 - at : 64 : 2]
        for at in (0, 1)
    )
