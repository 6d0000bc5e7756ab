# A thin wrapper: every step is also in the README as plain commands.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test clean

demo: $(VENV)/requirements.done
	$(BIN)/python data/sanguo.py
	$(BIN)/python train_tokenizer.py config/tiny.py
	$(BIN)/python prepare.py config/tiny.py
	$(BIN)/python train.py config/tiny.py --resume
	$(BIN)/python sample.py --run=tiny --prompt=你好 --repetition_penalty=1.2 --min_p=0.02
	$(BIN)/python plot_loss.py tiny

test: $(VENV)/requirements-dev.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pytest

$(VENV)/%.done: %.txt requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r $<
	touch $@

clean:
	rm -rf $(VENV)
