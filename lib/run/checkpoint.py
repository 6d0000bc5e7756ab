"""The checkpoints of a run: ckpt.pt, the latest state, and best.pt, the weights of the best validation loss."""

import contextlib
import dataclasses
import shlex

import torch

import config
from lib.errors import UserError, is_out_of_memory
from lib.machine import distributed
from lib.run.runs import BEST, LATEST, LOG
from lib.run.signals import signals_wait
from lib.storage import atomic_write, is_number

KINDS = {"model": dict, "config": dict, "tokenizer": str, "step": int}
RESUMABLE = {"optimizer": list, "scaler": dict, "best_val_loss": float, "data": str, "seconds": float, "records": list}
SHAPE = ("n_layer", "n_head", "n_kv_head", "n_embd", "head_size", "ffn_size")
SHAPE += ("rope_theta", "norm_eps", "tie_embeddings", "block_size", "optimizer")


def save_checkpoint(path, checkpoint):
    with atomic_write(path) as file:
        write_checkpoint(file, checkpoint)


def write_checkpoint(file, checkpoint):
    with signals_wait():
        try:
            torch.save(checkpoint, file)
        except RuntimeError as error:  # It says that a write failed, but not why.
            raise (error.__context__ or error) from None


@contextlib.contextmanager
def one_line_if_damaged(path, hint="is it a checkpoint of train.py?"):
    """Whatever fails while a file is used becomes one line, since a damaged file fails in many ways."""
    try:
        yield
    except (OSError, UserError):
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error).strip().split("\n")[0][:120]
        raise UserError(f"{path} is damaged ({reason}); {hint}") from None


def load_checkpoint(path, resumable=False) -> dict:
    """A checkpoint of train.py, on the CPU, its config a Config. No code in it is executed. Raises UserError.

    resumable: with what --resume needs.
    """
    with one_line_if_damaged(path):
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        for key, kind in (KINDS | RESUMABLE if resumable else KINDS).items():
            if not isinstance(checkpoint.get(key), kind):
                raise ValueError(f"it lacks {key}")
        settings = config.Config(**checkpoint["config"])
        # Older versions did not count the tokens.
        counted = {"tokens": checkpoint["step"] * settings.batch_size * settings.block_size, "seconds": 0.0}
        checkpoint = counted | checkpoint | {"config": settings}
        if checkpoint["step"] < 0 or not all(is_number(checkpoint[key]) for key in counted):
            raise ValueError("its step, its tokens or its seconds are impossible")
        return checkpoint


def start_or_resume(config, resume, overwrite, restarts, tokenizer_json):
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
    for key in SHAPE:
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


def save_run(log, step, model, average, optimizers, scaler, tokenizer_json, is_best):
    """Write ckpt.pt, with all that --resume needs, loss_log.json, and best.pt if there is a better one.

    average: the model whose weights are the average, or the model itself.
    """
    if not distributed.is_main:
        return
    run_dir = log.config.run_dir
    state = {
        "model": average.state_dict(),
        "config": dataclasses.asdict(log.config),
        "tokenizer": tokenizer_json,
        "step": step,
        "tokens": log.tokens(step),
    }
    if is_best:
        save_checkpoint(run_dir / BEST, state | {"val_loss": log.best_val_loss})
    resumable = {
        "weights": model.state_dict(),
        "optimizer": [optimizer.state_dict() for optimizer in optimizers],
        "scaler": scaler.state_dict(),
        "best_val_loss": log.best_val_loss,
        "data": log.header["data"]["train"]["sha256"],
        "seconds": log.seconds,
        "records": log.records,
    }
    save_checkpoint(run_dir / LATEST, state | resumable)
    log.save(step)


def restore(checkpoint, model, average, optimizers, scaler, path):
    """Set the weights and what the optimizers remember. Learning rate, betas and decay stay those of the config."""
    with one_line_if_damaged(path):
        average.load_state_dict(checkpoint["model"])
        model.load_state_dict(checkpoint.get("weights", checkpoint["model"]))  # Older versions had no average.
        for saved, optimizer in zip(checkpoint["optimizer"], optimizers, strict=True):
            optimizer.load_state_dict({"state": saved["state"], "param_groups": optimizer.state_dict()["param_groups"]})
            muon = isinstance(optimizer, torch.optim.Muon)
            names = ("momentum_buffer",) if muon else ("step", "exp_avg", "exp_avg_sq")
            for parameter, state in optimizer.state.items():
                like = {name: parameter if name != "step" else torch.zeros(()) for name in names}
                if _kinds(state) != _kinds(like):
                    raise ValueError("the state of its optimizer does not fit its weights")
        if checkpoint["scaler"]:  # It is empty unless the run uses float16.
            state = {name: checkpoint["scaler"][name] for name in ("scale", "_growth_tracker")}
            scaler.load_state_dict(scaler.state_dict() | state)
            scaler.scale(torch.zeros((), device=model.embedding.weight.device))  # It takes the values up only now.


def _kinds(tensors):
    return {name: (tensor.shape, tensor.dtype, tensor.layout) for name, tensor in tensors.items()}
