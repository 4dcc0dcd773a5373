"""Real training scripts, run under torchrun and by kij-train, and compared."""

from importlib.util import find_spec

import pytest

MODULES = ("accelerate", "hydra", "pytorch_lightning", "tqdm", "transformers")
needs_frameworks = pytest.mark.skipif(
    any(find_spec(name) is None for name in MODULES),
    reason="a framework is missing: pip install -e '.[frameworks]'",
)
