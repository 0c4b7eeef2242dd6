# Everything runs in .venv, which the first target that needs it creates; `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help install train zoo test cards gpu-test gpu-check gpu-wheels check format docs docs-check clean

help:  ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

install: $(READY)  ## Create the environment

# The mark is set last: an interrupted installation starts again from the beginning.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "icl-zoo needs Python 3.11 or newer; say which: make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]' -c constraints.txt
	@touch $@

train: $(READY)  ## Train the main job: python train.py
	$(BIN)/python train.py

# The checkpoints that are shipped: RECIPE.DATA, RECIPE-RULE.DATA, or an experiment. Those that a
# study has trained are shipped by python -m studies.ship NAME.
# Rules of the bare learner, each on episodes that its solver is made for.
RULES.linear := delta_rule delta_product test_time_training
RULES.linear_noisy := longhorn mesa
RULES.linear_drift := gated_linear_attention gated_delta_rule mesa
LEARNERS := $(foreach data,linear linear_noisy linear_drift,$(RULES.$(data):%=online_learner-%.$(data)))
ZOO := \
  $(addprefix gd_ssm.,linear linear_sparse linear_gaussian classification) gd_ssm_two_steps.linear \
  $(addprefix gd_ssm_four_steps.,linear linear_noisy linear_gaussian) gd_ssm_eight_steps.linear \
  gd_ssm_learned_start gd_ssm_drift $(addprefix gd_ssm_features.,sine relu_network) \
  linear_transformer_one_layer.linear linear_transformer.linear_sparse \
  $(addprefix gd_ssm_deep.,linear_sparse sine relu_network) \
  $(addprefix transformer.,linear_sparse linear_gaussian sine relu_network) \
  $(addprefix s5.,linear_sparse linear_gaussian sine relu_network) \
  $(addprefix mamba.,linear_sparse sine relu_network) $(LEARNERS)
# What else some of them are trained with.
WITH.gd_ssm.linear_gaussian := max_steps=4000 val_every=400
WITH.gd_ssm.classification := max_steps=3000
WITH.gd_ssm_four_steps.linear := max_steps=16000 val_every=800
WITH.gd_ssm_features.relu_network := model.num_features=32 max_steps=4000
# Before the scale of tokens was computed it was typed; in sine waves the last digits differ.
$(foreach recipe,gd_ssm_deep transformer s5 mamba,$(eval WITH.$(recipe).sine := model.y_scale=4.398))
WITH.online_learner-delta_product.linear := model.num_updates=2
WITH.online_learner-test_time_training.linear := model.mini_batch=4
DRIFT := model.decay=head data.d_y=5 data.function.rho=0.9
$(foreach rule,$(RULES.linear_drift),$(eval WITH.online_learner-$(rule).linear_drift := $(DRIFT)))
$(foreach one,$(LEARNERS),$(eval WITH.$(one) += optim.lr='[0.003,0.01,0.03]'))
# What is typed after `python train.py` for one of them.
pair = recipe=$(subst -, model.rule=,$(basename $1)) data=$(patsubst .%,%,$(suffix $1)) $(WITH.$1)
typed = $(strip $(if $(suffix $1),$(call pair,$1),experiment=$1))

# Runs that are there are kept, one that was interrupted goes on: rm -r runs/zoo starts afresh.
zoo: $(ZOO:%=runs/zoo/%/metrics.json)  ## Retrain and export the checkpoints of no study; make -j2 zoo
	for run in $(ZOO:%=runs/zoo/%); do $(BIN)/python -m zoo export $$run --replace || exit 1; done

runs/zoo/%/metrics.json: | $(READY)
	if [ -f runs/zoo/$*/config.yaml ]; \
	  then OMP_NUM_THREADS=1 $(BIN)/python train.py resume=runs/zoo/$*; \
	  else OMP_NUM_THREADS=1 $(BIN)/python train.py $(call typed,$*) hydra.run.dir=runs/zoo/$*; fi

# One thread: tensors here are small, and threads that wait for each other take most of the time.
test: $(READY)  ## Run the tests, a process for each core
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile --durations 25

cards: $(READY)  ## Reproduce the numbers in all cards, on all their episodes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 -m cards

gpu-test: $(READY)  ## Run the tests that need a CUDA GPU, on all there are
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m gpu -rs

gpu-check:  ## On a machine with a CUDA GPU: tests, times and a training, eleven minutes at most
	benchmarks/gpu_check.sh

# For Python 3.12 on x86-64, and what a machine with torch, Lightning and TensorBoard may lack.
WHEELS := pydantic pydantic_core annotated-types typing-inspection typing_extensions hydra-core \
  omegaconf rich typer shellingham annotated-doc psutil
pin = $(or $(shell grep -iE '^$1==' constraints.txt),$1)
gpu-wheels:  ## Fill .wheels with what gpu-check needs beside torch
	mkdir -p .wheels
	$(PYTHON) -m pip download -q --no-deps -d .wheels --python-version 3.12 \
	  --only-binary=:all: --platform manylinux2014_x86_64 --platform manylinux_2_17_x86_64 \
	  --platform any $(foreach name,$(WHEELS),$(call pin,$(name)))
	$(PYTHON) -m pip wheel -q --no-deps -w .wheels "$(call pin,antlr4-python3-runtime)"

check: $(READY)  ## Lint, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)  ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# What builds the site comes with the first that asks for it.
$(VENV)/.docs: $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[docs]' -c constraints.txt
	@touch $@

docs: $(VENV)/.docs  ## Build the pages as a site with a search, in site/
	$(BIN)/python docs/make_site.py

docs-check: docs  ## Look at the site in headless Chromium, on a desktop and on a phone
	$(BIN)/python docs/check_site.py

clean:  ## Remove the environment, the site and caches, never runs
	rm -rf $(VENV) build/docs site .mypy_cache .ruff_cache .pytest_cache *.egg-info
