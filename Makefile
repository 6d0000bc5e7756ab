# A thin wrapper: every step is also in the README as plain commands.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test browser notebook clients clean

demo: $(VENV)/requirements.done
	$(BIN)/python data/sanguo.py
	$(BIN)/python train_tokenizer.py config/tiny.py
	$(BIN)/python prepare.py config/tiny.py
	$(BIN)/python train.py config/tiny.py --resume
	$(BIN)/python sample.py --run=tiny --prompt=你好 --repetition_penalty=1.2 --min_p=0.02
	$(BIN)/python plot_loss.py tiny
	$(BIN)/python -m tools.report tiny
	$(BIN)/python -m tools.export tiny --format=html

test: $(VENV)/requirements-dev.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pytest

# The pages of tools.report and tools.export in a browser (needs chromium), after make demo.
browser: $(VENV)/requirements-dev.done
	$(BIN)/python -m pip install --quiet playwright==1.65.2
	$(BIN)/python -m tools.report tiny
	$(BIN)/python -m tools.report --tokenizer config/tiny.py
	$(BIN)/python -m tests.browser tiny
	$(BIN)/python -m pytest -m browser

# The notebook from beginning to end, with fewer steps. The Chinese one has the same code, which a test holds: one run
# tries both.
notebook: $(VENV)/requirements-dev.done
	$(BIN)/python -m pip install --quiet nbclient==0.11.0 ipykernel==7.4.0
	STEPS=60 $(BIN)/jupyter-execute docs/walkthrough.ipynb

# The tools that open what tools.export writes: llama.cpp, built from source, the oldest transformers that knows Qwen3, and
# the last of version 4.
clients: $(VENV)/requirements-dev.done
	$(BIN)/python -m pip install --quiet llama-cpp-python==0.3.36
	$(BIN)/python -m tests.llama $(RUN)
	$(PYTHON) -m venv $(VENV)/old
	set -e; for version in 4.51.3 4.57.6; do \
		$(VENV)/old/bin/python -m pip install --quiet torch==2.13.0 transformers==$$version matplotlib tqdm filelock \
			safetensors gguf pytest hypothesis; \
		$(VENV)/old/bin/python -m pytest tests/test_export.py; \
	done

$(VENV)/%.done: %.txt requirements.txt
	@$(PYTHON) -c 'import lib.machine.startup'  # It ends here if Python is too old.
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r $<
	touch $@

clean:
	rm -rf $(VENV)
