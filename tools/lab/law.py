"""Fit the law by which tools.recipe chooses, and judge it: docs/recipes.md.

    python -m tools.lab.law            fits it to docs/results/recipe.json, prints tables, draws docs/recipes.png
    python -m tools.lab.law --train    makes the runs that the file lacks before; all of them take a day on two cores

A run reads a part of one of three texts: the last n thousand characters of what it has for training. Validation is the
same for all parts of a text. A run has one thread, and two go side by side; its `minutes` are those of a pair of cores.
"""

import itertools
import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from matplotlib.figure import Figure

import prepare
import train_tokenizer
from config import ROOT, Config, load_config
from lib.errors import ArgumentParser, reports_errors
from lib.storage import atomic_write, read_json, write_json, write_text
from lib.text.corpus import Corpus
from lib.tokens.prepared import read_meta
from tools import scaling
from tools.lab.experiments import train_records

RESULTS = ROOT / "docs" / "results" / "recipe.json"
RUNGS = {rung[2]: rung for rung in scaling.LADDER}
TOKENS_A_MINUTE = {64: 3.2e6, 96: 2.1e6, 128: 1.536e6, 192: 0.75e6, 256: 0.5e6, 384: 0.2e6}  # for each n_embd
FIGURES = ("bits", "probe", "n_parameters", "tokens", "n_probe", "different")
TINY = "tiny"  # config/tiny.py, cut or stretched, to compare with
FEWEST_STEPS = 700  # Shorter runs have hardly left their warmup: the law would take the widest models for bad ones.
# {text: {minutes: the models that are trained so long}}; no minutes: the probe
GRID = {
    "sanguo_60k": {0: [64], 1: [64, 96, 128, 192, TINY], 4: [128, 192]},
    "sanguo_200k": {0: [64], 1: [64, 96, 128, 192, TINY], 4: [128, 192, TINY], 16: [256]},
    "sanguo_540k": {0: [64], 1: [64, 96, 128, 192, TINY], 4: [128, 192, TINY], 16: [192, 256], 60: [384]},
    "shakespeare_600k": {0: [64], 1: [64, 96, 128, 192, TINY], 4: [128, 192, TINY], 16: [256]},
    "shakespeare_5000k": {0: [64], 1: [96, 128, 192, TINY], 4: [128, 192, TINY]},
    "poetry_2000k": {0: [64], 1: [64, 96, 128, 192, TINY], 4: [128, 192, TINY]},
    "poetry_8000k": {0: [64], 4: [128, 192]},
    "poetry_25300k": {0: [64], 1: [128, 192, TINY], 4: [128, 192, TINY], 16: [192, 256], 60: [256]},
}


# --- the runs


def write_parts(source, sizes):
    """Write the documents of the parts of a text, in thousand characters, and those for validation."""
    splits = {"train": [], "val": []}
    for split, text, is_new in Corpus(Config(dataset=source)).train_and_val():
        splits[split] += [""] if is_new else []
        splits[split][-1] += text
    parts = {"val": splits["val"]}
    for size in sizes:
        documents, left = [], 1000 * size
        while left > 0 and len(documents) < len(splits["train"]):
            documents.insert(0, splits["train"][-1 - len(documents)][-left:])
            left -= len(documents[0])
        parts[f"{size}k"] = documents
    for name, documents in parts.items():
        path = ROOT / "data" / f"{source}_{name}" / "corpus.jsonl"
        path.parent.mkdir(exist_ok=True)
        write_text(path, "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in documents))


def prepare_text(name, is_tiny):
    """Make the tokens of a part. Returns (the flags that train.py needs for them, what meta.json says).

    is_tiny: with the vocabulary of config/tiny.py, not with the one that suits the part.
    """
    validation = ROOT / "data" / f"{name.partition('_')[0]}_val" / "corpus.jsonl"
    flags = ["config/tiny.py", f"--dataset={name}", f"--val_corpus={validation}"]
    if not is_tiny:
        flags += [f"--vocab_size={scaling.vocab_size_for(Corpus(Config(dataset=name)).bytes / 0.9)}"]
    config, _ = load_config(flags, ArgumentParser())
    if not (config.tokens_dir / "meta.json").exists():
        _ = train_tokenizer.main(flags) or prepare.main(flags)
    return flags, read_meta(config.tokens_dir)


def settings_of(model, minutes, different) -> dict:
    """The settings of a run, different: the tokens of its text."""
    if model == TINY:
        config, _ = load_config(["config/tiny.py"], ArgumentParser())
        settings = config.changes() | {"max_steps": minutes * config.max_steps}
        settings = {key: value for key, value in settings.items() if key not in ("dataset", "vocab_size", "run")}
    else:
        tokens = minutes * TOKENS_A_MINUTE[model] or scaling.PROBE_TOKENS
        settings = scaling.settings_for(RUNGS[model], tokens, different)
    return settings | {"eval_tokens": 50_000, "eval_interval": max(1, settings["max_steps"] // 10)}


def train_grid(results):
    """Make the runs of GRID that are not in the results; each is saved when it is done."""
    done = {(run["minutes"], run["text"], run["model"]) for run in results["runs"]}
    jobs = [(m, name, model) for name, times in GRID.items() for m, models in times.items() for model in models]
    jobs = sorted((job for job in jobs if job not in done), key=lambda job: job[0])
    for source in {name.partition("_")[0] for _, name, _ in jobs}:
        write_parts(source, [int(n.partition("_")[2][:-1]) for n in GRID if n.startswith(source)])
    flags = {}
    for name, is_tiny in dict.fromkeys((name, model == TINY) for _, name, model in jobs):
        flags[name, is_tiny], meta = prepare_text(name, is_tiny)
        if not is_tiny:
            known = {key: meta["train"][key] for key in ("characters", "bytes", "tokens")}
            results["texts"][name] = known | {"vocab_size": meta["vocab_size"]}
    saving = threading.Lock()

    def make(minutes, name, model):
        settings = settings_of(model, minutes, results["texts"][name]["tokens"])
        words = [*flags[name, model == TINY], *(f"--{key}={value}" for key, value in settings.items())]
        records = train_records(words, f"law_{name}_{minutes}_{model}", {"OMP_NUM_THREADS": "1"})
        bits = [round(record["val_bpc"], 4) for record in records[1:] if "val_bpc" in record]
        with saving:
            run = {"text": name, "minutes": minutes, "model": model, "settings": settings, "bits": bits}
            results["runs"].append(run)
            write_json(RESULTS, results, indent=1)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda job: make(*job), jobs))


# --- the law


def fit(runs):
    """The law of the least squares of relative errors. A and B are solved for; what else it has is tried.

    The scale of a text is that of its probe, so that bits · law(probe) = probe · law(run): linear in A and B.
    """
    runs = [run for run in runs if run["model"] != TINY and run["settings"]["max_steps"] >= FEWEST_STEPS]
    bits, probe, n, d, n_probe, different = (np.array([run[key] for run in runs]) for key in FIGURES)
    best = np.inf, None
    for room, repeats in itertools.product((1, 2, 3, 4, 5, 7, 10, 20, 1e6), (1, 2, 3, 4, 6, 10, 15)):
        amounts = [scaling.what_counts(n, d, different, room, repeats)]
        amounts += [scaling.what_counts(n_probe, scaling.PROBE_TOKENS, different, room, repeats)]
        for c in np.arange(1, 21) / 20:
            of_run, of_probe = np.array(amounts) ** -c
            x = (bits * of_probe - probe * of_run) / bits
            solution = np.linalg.lstsq(x.T, probe / bits - 1, rcond=None)[0]
            found = probe / bits * (1 + solution @ of_run) / (1 + solution @ of_probe)
            error = np.square(found - 1).mean()
            if error < best[0] and solution.min() > 0:
                best = error, (room, repeats, float(c), *solution.tolist())
    return best[1]


def predict(run, law=scaling.LAW):
    text = scaling.probed(run["probe"], run["n_probe"], run["different"], law)
    return scaling.expected_bits(run["n_parameters"], run["tokens"], text, law)


def table(runs) -> tuple[list[str], float]:
    """For each text and time: which width the law chooses, what it predicts, what came out, and what others reached.

    The law that judges a text has seen no run of any part of it. Returns the rows, and the error of the predictions
    (relative, root mean square).
    """
    rows, errors = [], []
    for source in dict.fromkeys(run["source"] for run in runs):
        law = fit([run for run in runs if run["source"] != source])
        mine = [run for run in runs if run["source"] == source]
        for text, minutes in dict.fromkeys((run["text"], run["minutes"]) for run in mine):
            here = {run["model"]: run for run in mine if (run["text"], run["minutes"]) == (text, minutes)}
            tiny = f"{here.pop(TINY)['bits']:.3f}" if TINY in here else ""
            predicted = {width: predict(run, law) for width, run in here.items()}
            chosen, best = min(predicted, key=predicted.get), min(here, key=lambda width: here[width]["bits"])
            found = f"{predicted[chosen]:.3f} | {here[chosen]['bits']:.3f} | {best}: {here[best]['bits']:.3f}"
            rows.append(f"| {text} | {minutes} | {chosen} | {found} | {tiny} |")
            errors.append(predicted[chosen] / here[chosen]["bits"] - 1)
    return rows, float(np.sqrt(np.mean(np.square(errors))))


# --- what is printed and drawn


def read_runs(results) -> list[dict]:
    """The runs, each with what is known of its text and its model. `bits` are those of the weights in best.pt."""

    def n_parameters(run):
        shape = {key: run["settings"][key] for key in ("n_layer", "n_head", "n_embd", "block_size")}
        return scaling.count_parameters(Config(**shape), results["texts"][run["text"]]["vocab_size"])

    probes = {run["text"]: run for run in results["runs"] if not run["minutes"]}
    runs = []
    for run in results["runs"]:
        if run["minutes"]:
            settings, probe, known = run["settings"], probes[run["text"]], results["texts"][run["text"]]
            tokens = settings["max_steps"] * settings["batch_size"] * settings["block_size"]
            figures = (
                min(run["bits"]),
                min(probe["bits"]),
                n_parameters(run),
                tokens,
                n_parameters(probe),
                known["tokens"],
            )
            about = {"source": run["text"].partition("_")[0], "characters": known["characters"]}
            runs.append(run | about | dict(zip(FIGURES, figures, strict=True)))
    return runs


def draw(runs):
    """Bits per character against minutes: what was trained, larger models as larger dots, and the law's best."""
    sources = list(dict.fromkeys(run["source"] for run in runs))
    figure = Figure(figsize=(11, 4.5), dpi=150, layout="constrained")
    for axes, source in zip(figure.subplots(1, len(sources)), sources, strict=True):
        for i, text in enumerate(dict.fromkeys(run["text"] for run in runs if run["source"] == source)):
            mine = [run for run in runs if run["text"] == text and run["model"] != TINY]
            minutes = np.geomspace(0.5, 100, 60)
            sizes = {run["model"]: run for run in mine}.items()
            curves = [predict(run | {"tokens": minutes * TOKENS_A_MINUTE[width]}) for width, run in sizes]
            axes.plot(minutes, np.min(curves, 0), color=f"C{i}", label=f"{mine[0]['characters']:,} characters")
            x, y, area = zip(*((run["minutes"], run["bits"], run["model"] / 4) for run in mine), strict=True)
            axes.scatter(x, y, area, color=f"C{i}", alpha=0.6)
        axes.set(xscale="log", title=source, xlabel="minutes of two cores", ylabel="bits per character")
        axes.legend(frameon=False)
        axes.grid(alpha=0.3)
    return figure


@reports_errors
def main(argv=None):
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--train", action="store_true", help="make the runs that are not there yet")
    args = parser.parse_args(argv)
    results = read_json(RESULTS, "python -m tools.lab.law --train makes it")
    if args.train:
        train_grid(results)
    runs = read_runs(results)
    law = fit(runs)
    print("the law: room {}, repeats {}, c {}, A {:.4f}, B {:.4f}".format(*law))
    print(
        "text | minutes | the chosen width | its bits as predicted | as they came out | the best width | config/tiny.py"
    )
    rows, error = table(runs)
    print("\n".join(rows) + f"\nerror of the predictions: {error:.3f}")
    with atomic_write(ROOT / "docs" / "recipes.png") as file:
        draw(runs).savefig(file)


if __name__ == "__main__":
    sys.exit(main())
