# Each target makes its environment by itself (in-env.sh): the active virtual or conda environment
# where this checkout is installed in it, else .venv from requirements.lock.

IN_ENV := sh ./in-env.sh
.NOTPARALLEL:
.DEFAULT_GOAL := help
.PHONY: help setup demo lab test check fmt bench notebooks lock clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*  ## /  make \1	/p' Makefile | expand -t 18

setup:  ## make the environment and nothing else
	@$(IN_ENV) python -c 'import sys; print("The environment is ready:", sys.prefix)'

demo:  ## run every runbook once, on a fresh sandbox copy of a legacy database
	@$(IN_ENV) python -m voice_agent.demo

lab:  ## open the playbook in JupyterLab, at the guided tour
	@$(IN_ENV) jupyter lab --ServerApp.root_dir="$(CURDIR)" \
	    $$([ "$$(id -u)" != 0 ] || echo --allow-root) notebooks/onboarding.ipynb

# Both pytest runs take place even if the first fails. PYTEST_ARGS goes to the first, which runs the
# test files in PYTEST_JOBS processes, each with servers of its own.
PYTEST_JOBS ?= 3
test: check  ## check, then run all tests and compare every notebook with its stored outputs
	@failed=0; \
	echo "== pytest"; \
	$(IN_ENV) python -m pytest -n $(PYTEST_JOBS) --dist loadfile $(PYTEST_ARGS) || failed=1; \
	echo "== nbval: every notebook against its stored outputs"; \
	$(IN_ENV) python -m pytest --nbval notebooks || failed=1; \
	exit $$failed

check:  ## lint, formatting, types and import layers, in seconds
	@echo "== ruff"
	@$(IN_ENV) ruff check .
	@$(IN_ENV) ruff format --check .
	@echo "== mypy"
	@$(IN_ENV) mypy
	@echo "== import layers"
	@$(IN_ENV) lint-imports --no-logo

fmt:  ## put the sources into their form
	@$(IN_ENV) ruff check --fix-only .
	@$(IN_ENV) ruff format .

bench:  ## measure against plain commands and plain scans, as ratios in one run
	@$(IN_ENV) python tests/benchmarks/run.py

notebooks:  ## execute every notebook anew and store its outputs in their form
	@$(IN_ENV) python tests/notebooks/regenerate.py

# Exact versions and hashes, no download address. The markers common to every line are left out.
lock:  ## resolve requirements.lock anew from pyproject.toml
	@$(IN_ENV) uv pip compile pyproject.toml --extra test --group setup --upgrade \
	    --universal --python-version 3.11 --generate-hashes --no-header \
	    --no-emit-index-url --no-emit-find-links --quiet --output-file requirements.lock.new \
	    >/dev/null
	@{ echo "# Exact versions of what pyproject.toml asks for, its extra \"test\" and its group"; \
	   echo "# \"setup\", on Python 3.11 to 3.13, Linux and macOS. Made by: make lock"; \
	   echo "# Install by: pip install --no-deps --require-hashes -r requirements.lock"; \
	   sed -e "s/ and (sys_platform == 'darwin' or sys_platform == 'linux')//" \
	       -e "s/ and python_full_version < '3.14'//; s/python_full_version < '3.14' and //" \
	       -e "s/ ; python_full_version < '3.14'//" requirements.lock.new; } > requirements.lock
	@rm requirements.lock.new
	@! grep -n '://' requirements.lock

# Backups are never removed, nor the runs on any database but the sandbox: their receipts and
# salvaged rows may be the only copy.
clean:  ## stop and remove the sandbox, its runs, the caches and .venv; never backups
	@[ -x .venv/bin/python ] || [ -n "$${VIRTUAL_ENV:-$${CONDA_PREFIX:-}}" ] || \
	    { echo "Nothing is removed: stopping the sandbox needs .venv. Try: make setup && make clean"; \
	      exit 1; }
	@$(IN_ENV) --as-is python -m playbook.sandbox remove || \
	    { echo "The sandbox is not removed (above), so nothing is: it needs .venv to stop."; \
	      echo "Try: make setup && make clean. If that fails too: rm -rf .venv"; exit 1; }
	@rm -rf runs/demo* runs/*-sandbox* .venv .venv.log
	@rm -rf .mypy_cache .pytest_cache .ruff_cache .import_linter_cache artifacts
	@find $(wildcard lib tests migrations notebooks) -type d \
	    \( -name __pycache__ -o -name .ipynb_checkpoints -o -name .ruff_cache \) \
	    -prune -exec rm -rf {} +
	@rmdir runs 2>/dev/null || [ ! -d runs ] || \
	    echo "Kept in runs/: the records of runs on databases other than the sandbox."
	@[ ! -d backups ] || echo "Kept: backups/."
