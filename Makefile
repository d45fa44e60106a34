# make demo: set everything up and watch a reconstruction grow; results in out/demo/. make demo RECORDING=folder replays one.
# make test: set everything up and run all tests.

SHELL := bash
in_env = . scripts/env.sh &&

.PHONY: setup demo test lint clean

setup:
	@scripts/setup.sh

demo: setup
	@$(in_env) python -m convonet_ros.ros.demo --out out/demo $(if $(RECORDING),--recording "$(RECORDING)")

test: setup
	@$(in_env) python -m pytest

lint: setup
	@$(in_env) ruff check . && ruff format --check . && mypy

# Everything that was made, the environment too.
clean:
	rm -rf .venv .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis build install log out *.egg-info
