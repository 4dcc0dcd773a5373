# make demo           train a small GPT on two "nodes" of this machine
# make test           run the tests that this machine can run
# make torchx         the TorchX schedulers against its last release and its newest nightly
# make harnesses      lm-eval, promptfoo, DeepEval and RAGAS in shards, in environments of their own
# make lint           style, import layers, types, workflows
# make docs           the site of docs/, in build/site, every link checked
# make pictures       the pictures of docs, light and dark; takes make cluster, and Chromium
# make man            man pages of all commands, in build/man
# make goldens        render the manifests of manifests/ and the pages of docs/reference and docs/examples again
# make lock           the newest versions for development, into requirements-dev.txt
#
# A real Kubernetes of plain processes, on Linux, as root, with Go (tests/cluster/README.md):
# make cluster        start it in the background, or use the one that runs
# make cluster-shell  a shell in which kubectl and kij-train speak to it
# make cluster-test   the tests that need it
# make controllers    the tests against Argo, Kueue, JobSet, Trainer, Karpenter, kube-router, which it builds first
# make cluster-down   stop it, and count what is left of it

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PACKAGES := -e '.[local,dev,docs]' -c requirements-dev.txt
# Without bytecode, every Python compiles all that it imports: of torch, two seconds more.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test torchx harnesses lint docs man pictures goldens lock clean
.PHONY: cluster cluster-shell cluster-test cluster-down controllers

demo: $(READY)
	$(BIN)/kij-train launch --local --nodes 2 --nproc-per-node 2 \
	    train_examples/char_gpt_ddp.py --steps 200
	@echo "kij-train is in $(BIN). In this shell from now on: . $(BIN)/activate"

test: $(READY)
	$(BIN)/python -m tests.run $(PYTEST_ARGS)

torchx: $(READY)
	$(BIN)/nox -s torchx

harnesses: $(READY)
	$(BIN)/nox -s harnesses

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/python -m tests.lintworkflows

docs: $(READY)
	$(BIN)/python -m tests.docsite

goldens: $(READY)
	$(BIN)/python -m tests.goldens
	$(BIN)/python -m tests.reference
	$(BIN)/python -m tests.migrations

pictures: cluster
	$(BIN)/python -m tests.cluster exec -- $(BIN)/python -m tests.pictures

man: $(READY)
	$(BIN)/python -m tests.manpages

# For every Python and platform at once. It names no index: that of a machine is its own affair.
lock: $(READY)
	$(BIN)/uv pip compile --universal --upgrade --python-version 3.10 --extra local --extra dev --extra docs \
	    --quiet --no-annotate --custom-compile-command "make lock" -o requirements-dev.txt pyproject.toml

cluster: $(READY)
	$(BIN)/python -m tests.cluster up --detach

cluster-shell: cluster
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m tests.cluster shell

cluster-test: $(READY)
	$(BIN)/python -m tests.run --only-cluster $(PYTEST_ARGS)

controllers: $(READY)
	$(BIN)/python -m tests.run --controllers $(PYTEST_ARGS)

cluster-down:
	$(PYTHON) -m tests.cluster down

# uv installs torch in seconds where another clone has had it, by hard links; pip does without uv.
$(READY): pyproject.toml requirements-dev.txt
	@command -v $(PYTHON) >/dev/null || { \
	    echo "missing: Python 3.10 or later, as $(PYTHON). Or name one: make PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	    echo "$(PYTHON) is older than Python 3.10. Name a newer one: make PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { \
	    echo "missing: the venv module. On Debian and Ubuntu: apt install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@echo "installing torch and the tools; the first time this takes some minutes"
	$(BIN)/python -m pip install --quiet -c requirements-dev.txt uv && \
	    $(BIN)/uv pip install --quiet --python $(BIN)/python $(PACKAGES) || \
	    $(BIN)/python -m pip install --quiet $(PACKAGES)
	@touch $@

clean:
	rm -rf $(VENV) .nox .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
