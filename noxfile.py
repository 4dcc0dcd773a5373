"""The TorchX schedulers against the versions of TorchX that there are: `nox`, or `make torchx`."""

import nox

nox.options.default_venv_backend = "uv|virtualenv"

VERSIONS = [nox.param("torchx==0.7.0", id="0.7.0"), nox.param("torchx-nightly", id="nightly")]
TESTS = ("tests/unit/test_torchx.py", "tests/local/test_torchx.py")


@nox.session
@nox.parametrize("torchx", VERSIONS)
def torchx(session: nox.Session, torchx: str) -> None:
    """Everything that needs no cluster."""
    session.install("-e", ".[local]", torchx, "pytest>=8", "pytest-timeout>=2")
    session.run("python", "-m", "pytest", *(session.posargs or TESTS))
