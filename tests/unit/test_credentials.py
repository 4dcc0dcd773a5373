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


FILES = """.env .env.local prod.env sub/.env.production .ENV .netrc .git-credentials .pypirc .npmrc
    .config/gcloud/application_default_credentials.json .config/gcloud home/.config/gcloud .aws
    .ssh id_rsa id_ed25519 .docker/config.json .kube kubeconfig cluster.kubeconfig kaggle.json
    credentials.json client_secret_123.json .pgpass terraform.tfstate keys.p12 .vault-token
    .streamlit/secrets.toml .huggingface/token .databrickscfg .bash_history"""
OTHERS = """train.py secrets.py env.py environment.yml .env.example .env.template example.env
token.txt tokenizer.json id_rsa.pub credentials.py config.json .docker .config token/a.py
awscli.md keys.py kube.yaml"""


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
        *("sk-", "sk-a", "hf_", "WANDB_API_KEY", "xoxb-1", "\\n", "AccountKey=a", "SG.a", "glpat-"),
    ],
)
def test_the_search_takes_no_longer_than_the_text_is_long(piece: str) -> None:
    """Of a million bytes: in no time, or not within this test's five minutes."""
    credentials.found_in(piece.encode() * (10**6 // len(piece)))


def test_a_file_with_a_key_stays_here_and_binary_and_large_files_are_not_searched(
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
