"""Where a run begins: anew, with published weights, or where its checkpoint says that it was."""

import contextlib
import dataclasses
import math
import shlex

from lib import qwen3
from lib.errors import UserError
from lib.machine import distributed
from lib.run.checkpoint import load_checkpoint, one_line_if_damaged
from lib.run.runs import BEST, LATEST, LOG
from lib.storage import lock_folder, remove_leftovers

KEPT = ("n_layer", "n_head", "n_kv_head", "n_embd", "head_size", "ffn_size")  # by a run, for good
KEPT += ("rope_theta", "norm_eps", "tie_embeddings", "block_size", "optimizer")


def lock_run(config):
    """A context in which no other process writes into the folder of a run."""
    return lock_folder(config.run_dir) if distributed.is_main else contextlib.nullcontext()


def begin(config, args, restarts, data, state, get_lr) -> dict:
    """Bring a state to where the run begins. Returns how far the run has come. Raises UserError.

    restarts: see `find_checkpoint`. get_lr: of train.py, (step, config) -> the learning rate.
    """
    checkpoint = find_checkpoint(config, args.resume, args.overwrite, restarts, data.tokenizer_json)
    progress = {"step": 0, "tokens": 0, "seconds": 0.0, "records": [], "best_val_loss": math.inf}
    if checkpoint:  # Its tensors, which are large, are let go when they have been restored.
        progress = {key: checkpoint[key] for key in progress}
    path, sha256 = config.run_dir / LATEST, data.meta["train"]["sha256"]
    mine = {"device": data.train.device.type, "training tokens": sha256[:12], "first step": progress["step"]}
    distributed.check_agreement(dataclasses.asdict(config) | mine)
    if checkpoint:
        with one_line_if_damaged(path):
            state.load_state_dict(checkpoint)
        say_what_changes(checkpoint, config, sha256, get_lr)
        print(f"resumed {path} at step {progress['step']:,}")
    elif config.init_from:
        qwen3.load_weights(config.init_from, state.model, data.tokenizer_json)
        state.average.load_state_dict(state.model.state_dict())
    if distributed.is_main:
        remove_leftovers(config.run_dir)
        if not checkpoint:  # After a crash --resume would otherwise go on with the old run.
            path.unlink(missing_ok=True)
    return progress


def find_checkpoint(config, resume, overwrite, restarts, tokenizer_json):
    """The checkpoint that the run goes on from, None if it begins anew. Raises UserError if the run is in the way.

    restarts: how often torchrun has started this command before. Then it resumes what it has begun itself.
    """
    run_dir = config.run_dir
    found = [name for name in (LATEST, BEST, LOG) if (run_dir / name).exists()]
    if restarts and found and not resume:
        resume = found[0] != LOG and load_checkpoint(run_dir / found[0])["config"] == config
    if found and not (resume or overwrite):
        ways = "--resume goes on with it, --run=NAME starts another, --overwrite replaces it"
        raise UserError(f"{run_dir} exists; {ways}")
    path = run_dir / LATEST
    if not (resume and path.exists()):
        return None
    checkpoint = load_checkpoint(path, resumable=True)
    for key in KEPT:
        old, new = getattr(checkpoint["config"], key), getattr(config, key)
        if old != new:
            raise UserError(
                f"{path} was trained with {key} {old}, the config says {new}; resume with the same one, or start"
                " another run with --run=NAME"
            )
    if checkpoint["tokenizer"] != tokenizer_json:
        raise UserError(
            f"{path} was trained with another tokenizer than {config.tokens_dir} has; {new_run(config)}, which brings"
            " its tokenizer"
        )
    if checkpoint["step"] > config.max_steps:
        raise UserError(f"{path} is at step {checkpoint['step']:,} already; raise max_steps ({config.max_steps:,})")
    return checkpoint


def new_run(config) -> str:
    """How to use the weights of a run for other text than its own."""
    flag = f"--init_from={shlex.quote(config.run)}"
    return f"to begin a new run with its weights, give {flag} to prepare.py, and {flag} --run=NAME to train.py"


def say_what_changes(checkpoint, config, data, get_lr):
    """Print what is not as it was before the checkpoint: the text, and the learning rate if it jumps.

    data: the SHA-256 of the training tokens. get_lr: of train.py, (step, config) -> the learning rate.
    """
    if checkpoint["data"] != data:
        print(f"warning: the training tokens are not those that this run began with; {new_run(config)}")
    step, old = checkpoint["step"], checkpoint["config"]
    before, after = get_lr(step, old), get_lr(step, config)
    goes_on = before > 1e-3 * old.learning_rate  # A rate near zero would teach nothing more.
    rate = float(f"{before if goes_on else old.learning_rate / 10:g}")
    if step == config.max_steps or (after < 1.1 * rate and (after > 0.9 * rate or not goes_on)):
        return
    # These flags give the step that rate, and begin the cosine here.
    flags = f"--learning_rate={rate:g} --embedding_lr={rate * old.embedding_lr / old.learning_rate:g}"
    flags += f" --min_lr={rate:g}" if rate < config.min_lr else ""
    advice = "to go on smoothly" if goes_on else "a tenth of its peak would be gentler"
    print(
        f"warning: the learning rate jumps from {before:.3g} to {after:.3g} at step {step:,};"
        f" {advice}: {flags} --warmup_steps=0 --hold_steps={step}"
    )
