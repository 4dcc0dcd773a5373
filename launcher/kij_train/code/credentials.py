"""Files that hold credentials, told by their names and by what stands in them. No I/O.

Names are those under which tools keep credentials by their own documentation. Content is a private
key with its body, or a token in a form that its issuer documents: with a prefix that says whose it
is and at least as long as real ones are, so that code which only speaks of tokens is not taken for
one. A pattern begins with what is always there, and every run in it has a longest length: the time
to search is proportional to the text.
"""

from __future__ import annotations

import fnmatch
import re

_NAMES = """
.env .env.* *.env .envrc .secrets .secrets.* secrets.json secrets.toml secrets.yaml secrets.yml
.netrc _netrc .git-credentials .gitcookies .pypirc .npmrc .htpasswd .pgpass .my.cnf .mylogin.cnf
.dockercfg .dockerconfigjson .boto .s3cfg .s3cfg-* .rclone.conf rclone.conf .databrickscfg
.modal.toml .comet.config kaggle.json credentials.json client_secret*.json access_tokens.db
application_default_credentials.json credentials.db credentials.tfrc.json .terraformrc terraform.rc
terraform.tfstate *.tfstate *.tfstate.backup .vault-token .vault_pass* kubeconfig *.kubeconfig
id_rsa id_dsa id_ecdsa id_ecdsa_sk id_ed25519 id_ed25519_sk *.ppk *.p12 *.pfx *.jks *.keystore
*.kdbx .bash_history .zsh_history .python_history .psql_history .mysql_history
"""
_EXAMPLES = "*.example *.sample *.template *.dist example.env sample.env template.env"
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

# Kind, what is always there, the form.
_TOKENS = (
    ("a GitHub token", rb"gh[pousr]_", rb"[A-Za-z0-9]{36,251}"),
    ("a GitHub token", rb"github_pat_", rb"[A-Za-z0-9]{22}_[A-Za-z0-9]{59}"),
    ("a GitLab token", rb"gl(?:pat|dt|rt|ptt|ft|soat)-", rb"[\w-]{20,50}"),
    ("a Hugging Face token", rb"hf_", rb"[A-Za-z0-9]{34,40}"),
    ("a W&B key", rb"wandb_v1_", rb"[\w-]{40,200}"),
    ("a W&B key", rb"WANDB_API_KEY", rb"[\"'\]]{0,2}\s{0,3}[:=,]\s{0,3}[\"']?[0-9a-f]{40}"),
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
    ("a Kubernetes key", rb"client-key-data: ", rb"[A-Za-z0-9+/=]{100}"),
)
_GAP = rb"(?:\s|\\r|\\n|[\"'+,]){1,80}"
_KEY = (
    rb"[A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
    rb"(?:" + _GAP + rb"[A-Za-z-]{1,40}: [^\n\\]{0,200}){0,6}" + _GAP + rb"(?:[A-Za-z0-9+/=]{16}"
    rb"|[A-Za-z0-9+/=]{1,64}" + _GAP + rb"-----END )"
)
_FORMS = [
    ("a private key", re.compile(rb"-----BEGIN "), re.compile(rb"-----BEGIN " + _KEY)),
    *(
        (kind, re.compile(prefix), re.compile(rb"(?<![A-Za-z0-9])" + prefix + form))
        for kind, prefix, form in _TOKENS
    ),
]
_FEWEST_BYTES = 4
"""A placeholder, such as hf_xxxxxxxx, is made of fewer different ones behind its prefix."""


def is_by_name(path: str) -> bool:
    """Whether a file or folder, by its path, is one where a tool keeps credentials."""
    name = path.rpartition("/")[2]
    if _NAME.fullmatch(name):
        return _EXAMPLE.fullmatch(name) is None
    return _PLACE.fullmatch(path) is not None


def found_in(content: bytes) -> str | None:
    """What a text holds, such as "a GitHub token"; None where it holds no credential."""
    for kind, prefix, form in _FORMS:
        if prefix.search(content) is None:
            continue
        for match in form.finditer(content):
            if len(set(match[0][-20:])) >= _FEWEST_BYTES:
                return kind
    return None
