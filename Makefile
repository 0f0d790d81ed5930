# Every target sets up what it needs; a fresh clone needs nothing but Python and make.
.PHONY: setup demo test check bench build
.DEFAULT_GOAL := setup

export HF_HUB_OFFLINE ?= 1
BIN := .venv/bin
MINUTES ?= 1
OUT ?= runs/demo

setup: ## install everything into .venv
	@./tools/setup.sh

demo: setup ## the main job, end to end, into OUT; MINUTES scales the training budgets
	@$(BIN)/worldlab demo --minutes $(MINUTES) --out $(OUT)

test: setup ## the tests
	@$(BIN)/pytest -n 2 --dist loadfile

check: setup ## format, lint, types, layers
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/basedpyright
	@$(BIN)/lint-imports

bench: setup ## speed, against peers in the same run
	@$(BIN)/python -m benchmarks

build: setup ## build the wheels and smoke-test them in an empty environment
	@./tools/build.sh
