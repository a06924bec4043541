# Every target sets up what it needs: a virtual environment in .venv with pinned versions.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
PEERS := .venv/peers
export OMP_NUM_THREADS ?= 1

.PHONY: help validate test peers lint generate check docs notebooks benchmark clean

help:  ## Show the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

validate: $(READY)  ## Check every closed form against Monte Carlo on real data
	mkdir -p build
	$(BIN)/fimsym validate --report build/validation.html

test: $(READY)  ## Run the tests
	$(BIN)/python -m pytest -n 2 --dist loadfile

peers: $(PEERS)  ## Audit the diagonals of other packages
	$(BIN)/python -m pytest tests/test_audit_peers.py

lint: $(READY)  ## Lint, format check, types and import contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

generate: $(READY)  ## Rewrite fimsym/generated from the derivations
	$(BIN)/fimsym generate --all

check: $(READY)  ## Fail if fimsym/generated is stale
	$(BIN)/fimsym generate --check

docs: $(READY)  ## Build the documentation into build/docs; warnings are errors
	$(BIN)/python -m sphinx -b html -W --keep-going -q docs build/docs

notebooks: $(READY)  ## Execute the derivations and write them to build/notebooks
	$(BIN)/python -m derivations

benchmark: $(PEERS)  ## Compare speed and memory with other packages; rewrites docs/benchmarks.md
	$(BIN)/python -m benchmarks $(ARGS)

clean:  ## Remove the virtual environment and everything built
	rm -rf .venv build *.egg-info

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fimsym needs Python 3.11 or newer; run: make PYTHON=python3.11 " + "$(MAKECMDGOALS)")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

# BackPACK asks for torchvision, which no measurement uses; one built for another torch breaks imports.
$(PEERS): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[peers]'
	$(BIN)/python -c 'import torchvision' 2>/dev/null || $(BIN)/python -m pip uninstall --quiet --yes torchvision
	touch $@
