"""Against other versions of what kij-train uses: `nox`; the schedulers alone: `make torchx`."""

import nox

nox.options.default_venv_backend = "uv|virtualenv"

VERSIONS = [nox.param("torchx==0.7.0", id="0.7.0"), nox.param("torchx-nightly", id="nightly")]
FLOOR_TESTS = [
    f"tests/unit/test_{name}.py"
    for name in ("connection", "kubeconfig", "client", "doctor", "job_commands", "inside")
]
TESTS = ("tests/unit/test_torchx.py", "tests/local/test_torchx.py")


@nox.session
@nox.parametrize("torchx", VERSIONS)
def torchx(session: nox.Session, torchx: str) -> None:
    """Everything that needs no cluster."""
    session.install("-e", ".[local]", torchx, "pytest>=8", "pytest-timeout>=2")
    session.run("python", "-m", "pytest", *(session.posargs or TESTS))


@nox.session
def floor(session: nox.Session) -> None:
    """The command line and the connection with the oldest versions that pyproject.toml allows."""
    session.install("--resolution=lowest-direct", "-e", ".", "pytest>=8.2", "pytest-timeout>=2.2")
    session.install("hypothesis>=6", "kubernetes", "pytest-xdist>=3", "trustme")
    session.run("python", "-m", "pytest", *(session.posargs or FLOOR_TESTS))
