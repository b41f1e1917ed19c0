# make demo   a phantom patient, segmented, compared with its truth, its rims classified
# make test   everything that can be checked here
# make clean  back to a fresh clone

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
DEMO := out/demo

.PHONY: demo test clean

demo: $(INSTALLED)
	rm -rf $(DEMO)
	$(BIN)/msrim simulate subject --out $(DEMO)/phantom --seed 1
	$(BIN)/msrim segment $(DEMO)/phantom/sub-phantom --out $(DEMO)/results
	$(BIN)/msrim evaluate segmentation \
		--truth $(DEMO)/phantom/derivatives/truth/sub-phantom/anat/sub-phantom_space-orig_label-L_mask.nii.gz \
		--prediction $(DEMO)/results/sub-phantom/anat/sub-phantom_space-orig_label-L_mask.nii.gz
	$(BIN)/msrim rim-classify $(DEMO)/phantom/sub-phantom --out $(DEMO)/results
	@echo "report: $(abspath $(DEMO)/results/sub-phantom/report.html)"
	@echo "rims:   $(abspath $(DEMO)/results/sub-phantom/rims/report.html)"
	@echo "to scroll through the lesions and correct them: $(BIN)/msrim view --open $(DEMO)/results"
	@if [ -n "$$DISPLAY$$WAYLAND_DISPLAY" ]; then $(BIN)/msrim view --open $(DEMO)/results; fi

# Two workers take whole files, so that what a file's tests share is made once; each works with one thread.
test: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

clean:
	rm -rf .venv out build dist .pytest_cache .ruff_cache .mypy_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch goes first and alone, so that a build chosen by the machine's own pip settings (CPU, CUDA) is kept.
# pyradiomics is built from source and asks for these without saying so. Its released sources use what Python 3.12 has no
# more (configparser.SafeConfigParser); there a fork of it is taken whose feature code is the same.
$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "msrim is installed with Python 3.11, 3.12 or 3.13; give one: make PYTHON=/path/to/python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	@echo "installing into .venv, a few minutes the first time"
	$(PIP) torch==2.13.0
	$(PIP) --editable '.[dev]'
	$(PIP) setuptools wheel versioneer
	$(PIP) --no-build-isolation 'pyradiomics==3.0.1; python_version < "3.12"' \
		'pyradiomics-bhklab==3.1.4; python_version >= "3.12"'
	@touch $@
