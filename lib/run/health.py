"""Whether a run still computes with numbers: the first step whose loss or gradient was not finite."""

import math

import torch

from lib.errors import UserError
from lib.machine import distributed

NEVER = 1 << 40


class Health:
    """Remembers that step on the device, so that no step waits for it; it is read before a save or a log line."""

    def __init__(self, device, scaler, config):
        self.scaler, self.config = scaler, config
        self.bad_step = torch.full((), NEVER, device=device)

    def watch(self, step, loss, grad_norm):
        # The scaler of float16 expects gradients that overflow, and skips their step. Without it they are fatal.
        finite = (loss if self.scaler.is_enabled() else loss + grad_norm).isfinite()
        self.bad_step = self.bad_step.minimum(torch.where(finite, NEVER, step))

    def check(self, step, val_loss=0.0):
        """Raise UserError if the weights are no longer of use."""
        bad_step = distributed.all_reduce(self.bad_step.item(), "min")
        skipped_for_long = self.scaler.is_enabled() and self.scaler.get_scale() < 1e-4
        if bad_step == NEVER and math.isfinite(val_loss) and not skipped_for_long:
            return
        raise UserError(
            f"the loss or its gradient is no longer finite at step {min(bad_step, step):,}; {self.config.run_dir} keeps"
            " the last good checkpoint. Try a lower learning_rate, more warmup_steps,"
            f" {'a smaller grad_clip' if self.config.grad_clip else 'a grad_clip such as 1'}, or dtype float32 or"
            " bfloat16 for float16"
        )
