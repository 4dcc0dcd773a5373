"""Credentials by name and by content; code that only speaks of them is none."""

from __future__ import annotations

import random
import string
from pathlib import Path

import pytest
from kij_train.code import bundle, credentials

RNG = random.Random(1)


def some(count: int, letters: str = string.ascii_letters + string.digits) -> str:
    return "".join(RNG.choices(letters, k=count))


BODY = "\n".join(some(64) for _ in range(4))
KEY = f"-----BEGIN OPENSSH PRIVATE KEY-----\n{BODY}\n-----END OPENSSH PRIVATE KEY-----\n"
HEX = "0123456789abcdef"
JWT = f"eyJhbGciOiJSUzI1NiIsImtpZCI6I{some(40)}.eyJpc3MiOiJrdWJlc{some(400)}.{some(342)}"


FILES = """.env .env.local prod.env sub/.env.production .ENV .netrc .git-credentials .pypirc .npmrc
    .config/gcloud/application_default_credentials.json .config/gcloud home/.config/gcloud .aws
    .ssh id_rsa id_ed25519 .docker/config.json .kube kubeconfig cluster.kubeconfig kaggle.json
    credentials.json client_secret_123.json .pgpass terraform.tfstate keys.p12 .vault-token
    .streamlit/secrets.toml .huggingface/token .databrickscfg .bash_history"""
OTHERS = """train.py secrets.py env.py environment.yml .env.example .env.template example.env
token.txt tokenizer.json id_rsa.pub credentials.py config.json .docker .config token/a.py
awscli.md keys.py kube.yaml .env-example .env.example~ .env_sample.bak train.py~ train.bak
env.yaml env.sh env.d.ts secret.py id_rsa.pub.bak environment.old netrc.py"""


COPIES = [
    ".env~",
    "#.env#",
    ".#.env",
    ".env ",
    ".env-prod",
    ".env_local",
    "env.prod",
    "prod.env.bak",
]
COPIES += [".envrc.bak", ".netrc.bak", "_netrc.old", "netrc", ".flaskenv", ".secret", "secrets.ini"]
COPIES += [".env.swp", "..netrc.swp", ".env.save", ".env.orig", "id_rsa.old", "id_rsa_backup"]
COPIES += ["kaggle (1).json", "kaggle(2).json", "credentials copy.json", ".env.bak.1", ".env.~1~"]
COPIES += [".aws.bak", "a/.ssh.old", ".docker/config.json~", "secrets.toml.bak2"]


@pytest.mark.parametrize("path", COPIES)
def test_copies_by_editors_and_people_are_known_by_what_they_are_copies_of(path: str) -> None:
    assert credentials.is_by_name(path)


@pytest.mark.parametrize("path", FILES.split())
def test_files_where_tools_keep_credentials_are_known_by_name(path: str) -> None:
    assert credentials.is_by_name(path)


@pytest.mark.parametrize("path", OTHERS.split())
def test_other_files_are_not(path: str) -> None:
    assert not credentials.is_by_name(path)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (KEY, "a private key"),
        (KEY.replace("\n", "\r\n"), "a private key"),
        (f'{{"private_key": {KEY!r}}}', "a private key"),
        (
            'K = (\n    "-----BEGIN RSA PRIVATE KEY-----\\n"\n    "' + some(64) + '\\n"',
            "a private key",
        ),
        (f"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\n{BODY}", "a private key"),
        ("-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----", "a private key"),
        (f"-----BEGIN PGP PRIVATE KEY BLOCK-----\n\n{BODY}", "a private key"),
        (f"login('hf_{some(34)}')", "a Hugging Face token"),
        (f"ghp_{some(36)}", "a GitHub token"),
        (f"https://x:github_pat_{some(22)}_{some(59)}@github.com", "a GitHub token"),
        (f"glpat-{some(20)}", "a GitLab token"),
        (f"WANDB_API_KEY={some(40, HEX)}", "a W&B key"),
        (f"os.environ['WANDB_API_KEY'] = '{some(40, HEX)}'", "a W&B key"),
        (f"sk-proj-{some(40)}T3BlbkFJ{some(40)}", "an OpenAI key"),
        (f"sk-ant-api03-{some(95)}", "an Anthropic key"),
        (f"aws_access_key_id = AKIA{some(16, string.ascii_uppercase + '234567')}", "an AWS key"),
        (f"AIza{some(35)}", "a Google key"),
        (f"xoxb-1234567890-{some(24)}", "a Slack token"),
        (f"pypi-AgEIcHlwaS5vcmc{some(80)}", "a PyPI token"),
        (f"//registry.npmjs.org/:_authToken=npm_{some(36)}", "an npm token"),
        (f"sk_live_{some(24)}", "a Stripe key"),
        (f"users:\n- user:\n    token: {JWT}", "a JSON Web Token"),
        (f'{{"Authorization": "Bearer {JWT}"}}', "a JSON Web Token"),
        (f'{{"client-key-data": "{some(120)}"}}', "a Kubernetes key"),
        ('{"auths": {"ghcr.io": {}, "a.io": {\n"auth": "bWU6aHVudGVyMg=="}}}', "a Docker login"),
        ("DB = 'postgres://me:hunter22@db.corp.io/x'", "a password in a URL"),
        ("http://me:hunter22@test-proxy.corp.io", "a password in a URL"),
        ("url: https://:s3cr3t-Pw@cache:6379/0", "a password in a URL"),
        (f'{{"a": "x\\nghp_{some(36)}"}}', "a GitHub token"),
        (f"https://a/?t%3Dhf_{some(34)}", "a Hugging Face token"),
        (f"wandb.login(key='{some(40, HEX)}')", "a W&B key"),
        (f"wandb login --relogin {some(40, HEX)}", "a W&B key"),
        (f"wandb:\n  key: {some(40, HEX)}\n", "a W&B key"),
        (f"AGE-SECRET-KEY-1{some(58, string.ascii_uppercase + '234567')}", "an age key"),
        ("PuTTY-User-Key-File-3: ssh-ed25519\r\nEncryption: none\r\n", "a PuTTY key"),
    ],
    ids=lambda each: each[:20],
)
def test_keys_and_tokens_are_found_anywhere_in_a_text(text: str, kind: str) -> None:
    assert credentials.found_in(f"a = 1\n{text}\n".encode()) == kind


@pytest.mark.parametrize(
    "text",
    [
        "# a key begins with -----BEGIN PRIVATE KEY-----",
        'if "-----BEGIN RSA PRIVATE KEY-----" in text:\n    raise ValueError("a key, not a path")',
        "re.compile(r'-----BEGIN [A-Z ]*PRIVATE KEY-----')",
        "-----BEGIN PUBLIC KEY-----\n" + BODY,
        "-----BEGIN CERTIFICATE-----\n" + BODY,
        "token = 'hf_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx'",
        "hf_model_for_causal_language_modelling_with_heads",
        "AKIAIOSFODNN7EXAMPLE",
        "export WANDB_API_KEY=$(cat key)",
        "sk-learn-contributions-and-other-projects",
        "ghp_short",
        "postgres://user:password@db/x",
        "redis://admin:admin@cache.corp.io",
        "postgres://me:hunter22@localhost:5432/x",
        "http://me:hunter22@proxy.example.com:8080",
        "http://proxyuser:proxypass@proxy.corp.io",
        "https://me:hunter22@host/x",
        'f"postgres://{user}:{password}@{host}/x"',
        "postgres://me:${PASSWORD}@db.corp.io/x",
        "https://USER:YOUR_TOKEN@github.com/a/b",
        "git clone ssh://git@github.com:22/a",
        f"wandb @ git+https://github.com/wandb/wandb@{'0123456789abcdef01234567' + '89abcdef' * 2}",
        f"wandb_commit = '{'0123456789abcdef01234567' + '89abcdef' * 2}'",
        f"wandb --hash=sha256:{'0123456789abcdef' * 4}",
        "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIiwibmFtZSI6IkpvaG4gRG9lIn0."
        "SflKxwRJSMeKKF2QT4fwpMeJf36POk6yJV_adQssw5c",
        '{"auths": {"ghcr.io": {}}, "credsStore": "desktop"}',
        'if line.startswith("PuTTY-User-Key-File-2"):',
        "AGE-SECRET-KEY-1... is what age-keygen prints",
    ],
)
def test_code_that_speaks_of_them_holds_none(text: str) -> None:
    assert credentials.found_in(text.encode()) is None


@pytest.mark.parametrize(
    "piece",
    [
        "a",
        "-----BEGIN ",
        "-----BEGIN PRIVATE KEY-----\n",
        "-----BEGIN PRIVATE KEY-----\na: b\n",
        *("eyJ-", "eyJaaaaaaaa.", "eyJaaaaaaaa.eyJ-", "wandb", "wandb ", '"auths": {', "a://b:c"),
        *("://", "a://", "a://b", "a://b:cccccccc", "client-key-data", "AGE-SECRET-KEY-1A", "%20"),
        *("sk-", "sk-a", "hf_", "WANDB_API_KEY", "xoxb-1", "\\n", "AccountKey=a", "SG.a", "glpat-"),
    ],
)
def test_the_search_takes_no_longer_than_the_text_is_long(piece: str) -> None:
    """Of a million bytes: in no time, or not within this test's five minutes."""
    credentials.found_in(piece.encode() * (10**6 // len(piece)))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_windows_text_is_searched(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "keys.txt").write_bytes(f"# é\ntoken=ghp_{some(36)}\n".encode(encoding))
    (tmp_path / "a.txt").write_bytes("plain\n".encode(encoding))
    assert bundle.pack(tmp_path).files == ("a.txt",)


@pytest.mark.parametrize("where", ["beginning", "border", "end"])
def test_a_large_file_is_searched_at_both_ends(tmp_path: Path, where: str) -> None:
    token, filler = f" ghp_{some(36)} ", "plain text\n" * 150_000
    at = {"beginning": 5, "border": 2**20 - 20, "end": len(filler)}[where]
    (tmp_path / "log.jsonl").write_text(filler[:at] + token + filler[at:])
    assert bundle.pack(tmp_path).files == ()


def test_histories_and_what_editors_keep_never_ship(tmp_path: Path) -> None:
    for name in (".hg/hgrc", ".svn/wc.db", ".bzr/branch/location", "a.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name in ("a.py~", ".a.py.swp", ".a.py.swo", "b.swp", "#a.py#"):
        (tmp_path / name).touch()
    (tmp_path / ".#a.py").symlink_to("me@host.1234")
    archive = bundle.pack(tmp_path)
    assert (archive.files, archive.notes) == (("a.py",), ())


def test_a_file_with_a_key_stays_here_and_binary_files_are_not_searched(
    tmp_path: Path,
) -> None:
    (tmp_path / "deploy.pem").write_text(KEY)
    (tmp_path / "module.py").write_text(f"TOKEN = 'ghp_{some(36)}'\n")
    (tmp_path / "data.bin").write_bytes(b"\0" + KEY.encode())
    archive = bundle.pack(tmp_path)
    assert archive.files == ("data.bin",)
    back = f"'!/module.py' >> {tmp_path}/.kijignore"
    assert archive.notes == (
        f"left out deploy.pem: it holds a private key; to ship it: echo '!/deploy.pem' >> "
        f"{tmp_path}/.kijignore",
        f"left out module.py: it holds a GitHub token; to ship it: echo {back}",
    )


def test_many_secrets_are_told_in_few_lines(tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / f"{number}.env").touch()
    notes = bundle.pack(tmp_path).notes
    assert len(notes) == 6
    assert notes[-1] == "left out 25 more that look like secrets: kij-train render --list-code"
