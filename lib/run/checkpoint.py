"""The checkpoints of a run: ckpt.pt, the latest state, and best.pt, the weights of the best validation loss."""

import contextlib
import dataclasses

import torch

from config import Config
from lib.errors import UserError, is_out_of_memory
from lib.machine import distributed
from lib.run.runs import BEST, LATEST, sound
from lib.run.signals import signals_wait
from lib.storage import atomic_write, is_number

CONTENTS = {"model": dict, "config": dict, "tokenizer": str, "step": int}
RESUMABLE = {"optimizer": list, "scaler": dict, "best_val_loss": float, "data": str, "seconds": float, "records": list}


@dataclasses.dataclass
class TrainState:
    """What a training step changes, saved and restored together.

    model: the network itself, neither compiled nor wrapped. average: the network whose weights are the average of
    model's so far, which is evaluated, sampled and published; without averaging it is the model. So a checkpoint
    calls the weights of the average "model", and those with which training goes on "weights".
    """

    model: torch.nn.Module
    average: torch.nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler

    def state_dict(self) -> dict:
        return {
            "model": self.average.state_dict(),
            "weights": self.model.state_dict(),
            "optimizer": [self.optimizer.state_dict()],  # Once there could be two.
            "scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, saved):
        """Take up what a checkpoint holds. Learning rate, betas and decay stay those of the config."""
        self.average.load_state_dict(saved["model"])
        self.model.load_state_dict(saved.get("weights", saved["model"]))  # Older versions had no average.
        if len(saved["optimizer"]) > 1:
            raise ValueError("it is of an older version, whose Muon was another")
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": saved["optimizer"][0]["state"]})
        matrices = {weight for group in self.optimizer.param_groups if "rows" in group for weight in group["params"]}
        for weight, memory in self.optimizer.state.items():
            # The optimizer trusts their shapes and strides: it would write beyond a tensor that is smaller.
            form = weight.shape, weight.stride()
            adamw = {"step": ((), ()), "exp_avg": form, "exp_avg_sq": form}
            forms = {"momentum_buffer": form} if weight in matrices else adamw
            if {name: (tensor.shape, tensor.stride()) for name, tensor in memory.items()} != forms:
                raise ValueError("the state of its optimizer does not fit its weights")
        if saved["scaler"]:  # It is empty unless the run uses float16.
            numbers = {name: saved["scaler"][name] for name in ("scale", "_growth_tracker")}
            self.scaler.load_state_dict(self.scaler.state_dict() | numbers)
            self.scaler.scale(torch.zeros((), device=self.model.embedding.weight.device))  # It uses them only now.


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
        for key, kind in (CONTENTS | RESUMABLE if resumable else CONTENTS).items():
            if not isinstance(checkpoint.get(key), kind):
                raise ValueError(f"it lacks {key}")
        settings = Config(**checkpoint["config"])
        # Older versions did not count the tokens.
        counted = {"tokens": checkpoint["step"] * settings.batch_size * settings.block_size, "seconds": 0.0}
        checkpoint = counted | checkpoint | {"config": settings}
        if resumable and sound(checkpoint["records"]) != checkpoint["records"]:
            raise ValueError("its records are impossible")
        if checkpoint["step"] < 0 or not all(is_number(checkpoint[key]) for key in counted):
            raise ValueError("its step, its tokens or its seconds are impossible")
        return checkpoint


def save_run(log, step, state, tokenizer_json, is_best=False):
    """Write ckpt.pt, with all that --resume needs, loss_log.json, and best.pt if there is a better one."""
    if not distributed.is_main:
        return
    run_dir = log.config.run_dir
    published = {
        "model": state.average.state_dict(),
        "config": dataclasses.asdict(log.config),
        "tokenizer": tokenizer_json,
        "step": step,
        "tokens": log.tokens(step),
    }
    if is_best:
        save_checkpoint(run_dir / BEST, published | {"val_loss": log.best_val_loss})
    progress = {
        "best_val_loss": log.best_val_loss,
        "data": log.header["data"]["train"]["sha256"],
        "seconds": log.seconds,
        "records": log.records,
    }
    save_checkpoint(run_dir / LATEST, published | state.state_dict() | progress)
    log.save(step)
