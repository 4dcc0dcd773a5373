"""Names of jobs, keys and secrets."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kij_train import names

DNS_LABEL = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")


@given(st.text(max_size=100), st.integers(1, 100_000))
def test_a_generated_name_is_always_a_job_name(stem: str, nodes: int) -> None:
    name = names.generated_job_name(stem, "x3k9a", nodes)
    assert names.check_job_name(name, nodes) == name
    assert DNS_LABEL.fullmatch(f"{name}-{nodes - 1}")


@pytest.mark.parametrize(
    ("name", "nodes", "why"),
    [
        ("Train", 1, "Did you mean train"),
        ("1st", 1, "Did you mean st"),
        ("my_job", 1, "Did you mean my-job"),
        ("job-", 1, "Did you mean job"),
        ("", 1, "DNS-1123"),
        ("a.b", 1, "DNS-1123"),
        ("a" * 61, 101, "too long by 2"),
        ("a" * 64, 1, "too long by 3"),
    ],
)
def test_a_name_that_cannot_be_is_refused_with_the_reason(name: str, nodes: int, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        names.check_job_name(name, nodes)


def test_the_longest_name_that_fits_is_taken() -> None:
    assert names.check_job_name("a" * 61, 10)
    assert names.check_job_name("a" * 60, 100)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HF_TOKEN", "x"),
        ("WANDB_API_KEY", "x"),
        ("DB_PASSWORD", "x"),
        ("aws_secret_access_key", "x"),
        ("X", "hf_abcdefghijklmnopqrstuvw"),
        ("X", "AKIAIOSFODNN7EXAMPLE"),
        ("URL", "postgres://me:pw@db/x"),
    ],
)
def test_credentials_are_recognised(name: str, value: str) -> None:
    assert names.looks_secret(name, value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HF_TOKEN", ""),
        ("TOKENIZERS_PARALLELISM", "false"),
        ("LR", "3e-4"),
        ("NCCL_DEBUG", "INFO"),
        ("URL", "https://example.com/x"),
        ("KEYBOARD", "de"),
    ],
)
def test_other_variables_are_left_alone(name: str, value: str) -> None:
    assert not names.looks_secret(name, value)


@pytest.mark.parametrize(
    "value",
    [
        "0123456789abcdef" * 60_000,
        "a" * 10**6,
        "a:" * 500_000,
        "://" * 300_000,
        "://a:" * 200_000,
        "-----BEGIN " * 100_000,
        "-----BEGIN " + "A" * 10**6,
        "sk-" * 10 + " sk-" * 300_000,
        "xoxb-a xoxb-" * 80_000,
        "ghp_a" * 200_000,
        "a.b-c+" * 200_000,
    ],
    ids=lambda value: str(value[:12]),
)
def test_looking_for_secrets_takes_no_longer_than_the_value_is_long(value: str) -> None:
    """Of a million characters: in no time, or not within this test's five minutes."""
    names.looks_secret("X", value)


def test_a_secret_at_the_end_of_a_long_value_is_found() -> None:
    assert names.looks_secret("X", "0123456789abcdef" * 60_000 + " s3+http://me:pw@host")


@pytest.mark.parametrize(
    "image",
    [
        *(
            "a",
            "1.10",
            "train:1.0",
            "team/train",
            "docker.io/library/a:latest",
            "a:_x",
            "a:V1.0_x-Y",
        ),
        *("localhost:5000/x", "registry.example.com:5000/team/sub/train:1.0@sha256:" + "a" * 64),
        *("REGISTRY.Example.com/x", "[::1]:5000/x:y", "a.b/a__b/c---d_e.f", "127.0.0.1:80/a"),
        *("a@sha512:" + "0" * 128, "a:" + "t" * 128, "a" * 255, "Team/train", "xn--7o8h.com/a"),
    ],
)
def test_every_image_of_dockers_grammar_is_taken(image: str) -> None:
    assert names.check_image(image) == image


@pytest.mark.parametrize(
    ("image", "why"),
    [
        *((image, "is no image. Write it like") for image in ("-1", "=", ":::", "/", "🚀", "a b")),
        *((image, "is no image. Write it like") for image in ("a:", "a@b", "a//b", "a_", "a\n")),
        *((image, "is no image. Write it like") for image in ("http://a/b", "a:" + "t" * 129)),
        ("a@sha256:abc", "is no image. Write it like"),
        ("", "is empty: is a variable unset"),
        ("Train:V1", "must be in lower case"),
        ("a.io/Team/x", "must be in lower case"),
        ("a" * 256, "is too long: an image's name has 255"),
        ("a" * 200_000, "is too long"),
        ("a-" * 200_000, "is too long"),
    ],
    ids=lambda text: text[:10],
)
def test_what_no_registry_could_have_is_no_image(image: str, why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)):
        names.check_image(image)


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["--hf-token", "abc123def456"], {1: "--hf-token"}),
        (["--lr", "1", "--api-key=a1b2c3d4e5"], {2: "--api-key"}),
        (["+db.password=correct-horse"], {0: "+db.password"}),
        (["--db-password", "hunter2"], {1: "--db-password"}),
        (["hf_abcdefghijklmnopqrstuvw"], {0: "argument 1"}),
        (["--x", "postgres://me:pw@db/x"], {1: "--x"}),
        (["--hf_abcdefghijklmnopqrstuvw=1"], {0: "argument 1"}),
        (["--pad-token", "<pad>", "--eos_token", "<|endoftext|>", "--max-token", "512"], {}),
        (["--token", "$(HF_TOKEN)", "--password", "$(PW)", "--secret-file", "/run/secret"], {}),
        (["--use-password", "true", "--token-file", "/etc/token1", "--tokenizer", "gpt2-xl1"], {}),
        (["--token", "--lr", "1"], {}),
    ],
)
def test_arguments_with_credentials_are_told_from_those_that_only_speak_of_tokens(
    arguments: list[str], found: dict[int, str]
) -> None:
    assert names.secret_arguments(arguments) == found
