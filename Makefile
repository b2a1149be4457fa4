# Two commands: `make demo` and `make test`. Each makes what it needs in .venv and is quick the second time.
#   make demo MODEL=…      another model: qwen2.5-coder-1.5b, a directory, or bundled for the million tokens alone
#   make test-fast         the inner loop: no servers, no herds of processes, nothing slow; under two minutes
#   make test-long         what looks deeper the longer it runs: fuzzing, many rounds of kills
#   WORKERS=1              how many processes the tests run in; one more than there are cores if left out
#   PYTHON=python3.12      another interpreter (3.11 or newer)
#   TORCH=torch==2.12.0    another build of PyTorch; TORCH_INDEX_URL=… takes it from another index
PYTHON ?= python3
TORCH ?= torch==2.13.0
TORCH_INDEX_URL ?=
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q

STAMP := $(VENV)/.installed-$(subst =,-,$(TORCH))

.PHONY: demo test test-fast test-long lint format bench clean install

demo: install
	@$(BIN)/palimpsest demo $(if $(MODEL),--model "$(MODEL)") $(if $(DOC),--doc "$(DOC)") $(if $(ASK),--ask "$(ASK)") $(if $(POLICY),--policy "$(POLICY)") $(if $(TOKENS),--tokens "$(TOKENS)")

# One worker more than cores, as some tests mostly wait; each has a PostgreSQL and a Redis of its own.
WORKERS ?= $(shell expr $$(nproc) + 1)
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --no-loadscope-reorder

test: $(VENV)/.kernels
	$(PYTEST) --durations=25 $(PYTEST_ARGS)

test-fast: $(VENV)/.kernels
	$(PYTEST) -q -m "not herd and not servers and not slow" $(PYTEST_ARGS)

test-long: $(VENV)/.kernels
	PALIMPSEST_LONG_TESTS=1 $(PYTEST) -m deep -o timeout=3600 --durations=25 $(PYTEST_ARGS)

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q -p no:cacheprovider tests/layout

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: install
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info

install: $(STAMP)

# torch goes first and alone: any looser requirement lets pip choose a build of several gigabytes.
$(STAMP): pyproject.toml constraints.txt
	@echo "==> Python environment in $(VENV) (first time only: about a minute)"
	@$(PYTHON) -c 'import sys; sys.exit("Palimpsest needs Python 3.11 or newer; choose one with PYTHON=…") if sys.version_info < (3, 11) else None'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "==> $(TORCH)"
	@$(PIP) install $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL)) "$(TORCH)"
	@echo "==> Palimpsest and its pinned dependencies"
	@$(BIN)/python -m pip freeze | grep -E '^(torch|triton)==' > $(VENV)/torch.txt
	@awk -F== 'NR == FNR {ours[$$1]; print; next} !($$1 in ours)' $(VENV)/torch.txt constraints.txt > $(VENV)/constraints.txt
	@$(PIP) install -c $(VENV)/constraints.txt -e '.[service,s3,embedded,evolve,evaluate,dev]'
	@touch $@

# Triton's interpreter runs the GPU kernels on a CPU. Builds of PyTorch for CUDA bring their own Triton.
$(VENV)/.kernels: $(STAMP)
	@echo "==> Triton, to test GPU kernels on a CPU (190 MB)"
	@$(PIP) install --no-deps -c $(VENV)/constraints.txt triton
	@touch $@
