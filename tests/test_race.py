"""What tools.lab.race computes without nanoGPT: times without evaluations, and when one curve meets a figure."""

import pytest

from config import load_config
from lib.errors import ArgumentParser
from tests.conftest import TINY, make_text
from tools.lab import race


def test_only_training_takes_time():
    records = [
        {"step": 0, "val_bpc": 9.0, "tokens_per_second": 50.0},
        {"step": 1, "tokens_per_second": 100.0},
        {"step": 2, "val_bpc": 5.0},
    ]
    assert race.learning_curve(records, step_tokens=100) == [(0.0, 9.0), (3.0, 5.0)]
    lines = ["step 0: train loss 4, val loss 4", "iter 0: loss 4, time 9000.00ms", "iter 1: loss 4, time 500.00ms"]
    lines += ["iter 2: loss 4, time 700.00ms", "step 3: train loss 4, val loss 4", "iter 3: loss 4, time 9000.00ms"]
    assert race.training_seconds("\n".join(lines), 3) == pytest.approx(0.6 + 0.5 + 0.7)


def test_when_a_curve_comes_to_a_figure():
    curve = [(0.0, 9.0), (3.0, 5.0), (4.0, 6.0), (5.0, 4.0)]
    assert race.seconds_until(curve, 7.0) == 1.5 and race.seconds_until(curve, 5.0) == 3.0
    assert race.seconds_until(curve, 4.5) == 4.75 and race.seconds_until(curve, 3.9) is None


def test_both_read_the_same_text(book):
    texts = race.read_splits(load_config(TINY, ArgumentParser())[0])
    assert texts["train"] + texts["val"] == make_text(600) and texts["val"]
