"""Is a loss normal? The published runs, beside one's own."""

from pathlib import Path

import numpy as np

from lib.run.runs import Run

LOGS = Path(__file__).parents[2] / "docs" / "results"
COMPARED_KEYS = ("n_layer", "n_head", "n_kv_head", "n_embd", "block_size")


def beside_published(run, config, sha256) -> list:
    """[(tokens seen, validation loss, that of the published run after as many)], each twice as many as before.

    It is empty if no published run had a model of this shape and these tokens. Evaluations before the first published
    one are left out. sha256: of the training tokens.
    """
    for path in LOGS.glob("*/loss_log.json"):
        published = Run(str(path))
        same_shape = all(published.header["config"][key] == getattr(config, key) for key in COMPARED_KEYS)
        if same_shape and published.header["data"]["train"]["sha256"] == sha256:
            break
    else:
        return []
    known, losses = published.series("val_loss", "tokens")[:, 1:]  # The untrained model has seen none.
    rows = []
    for tokens, loss in reversed(list(zip(*run.series("val_loss", "tokens"), strict=True))):
        if known[0] <= tokens <= min(known[-1], rows[-1][0] / 2 if rows else np.inf):
            rows.append((tokens, loss, float(np.interp(np.log(tokens), np.log(known), losses))))
    return rows[::-1]
