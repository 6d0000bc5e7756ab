"""The checkpoints of a run: ckpt.pt, the latest state, and best.pt, the weights of the best validation loss."""

import contextlib

import torch

import config
from lib.errors import UserError, is_out_of_memory
from lib.runs import BEST, LATEST, LOG
from lib.signals import signals_wait
from lib.storage import atomic_write, is_number

KINDS = {"model": dict, "config": dict, "tokenizer": str, "step": int}
RESUMABLE = {"optimizer": list, "scaler": dict, "best_val_loss": float, "data": str, "seconds": float, "records": list}
SHAPE = ("n_layer", "n_head", "n_kv_head", "n_embd", "head_size", "ffn_size")
SHAPE += ("rope_theta", "norm_eps", "tie_embeddings", "block_size", "optimizer")


def save_checkpoint(path, checkpoint):
    with atomic_write(path) as file, signals_wait():
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
        if checkpoint["step"] < 0 or not is_number(checkpoint.get("seconds", 0.0)):
            raise ValueError("its step or its seconds are impossible")
        return checkpoint | {"config": config.Config(**checkpoint["config"])}


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
        raise UserError(f"{path} was trained with another tokenizer than {config.tokens_dir} has; start another --run")
    if checkpoint["step"] > config.max_steps:
        raise UserError(f"{path} is at step {checkpoint['step']:,} already; raise max_steps ({config.max_steps:,})")
    return checkpoint


def restore(checkpoint, model, optimizers, scaler, path):
    """Set the weights and what the optimizers remember. Learning rate, betas and decay stay those of the config."""
    with one_line_if_damaged(path):
        model.load_state_dict(checkpoint["model"])
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
