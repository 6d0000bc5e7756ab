"""Muon: an optimizer whose update turns and stretches a matrix alike in all directions.

The gradient of a matrix is dominated by a few directions. Muon keeps the directions and makes all of them as long. This
has a meaning for matrices between two layers only; the embedding, the head and the vectors stay with AdamW.

Muon: https://kellerjordan.github.io/posts/muon, the size of its update: https://arxiv.org/abs/2502.16982
"""

import math

import torch

MOMENTUM = 0.95  # of the average of gradients that an update is made of

# Each step replaces a singular value s, at most 1, by a s + b s^3 + c s^5, which brings it closer to 1. With these
# coefficients few steps are enough (https://arxiv.org/abs/2505.16932).
POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)


def orthogonalize(x, dtype):
    """Bring all singular values of a stack of matrices close to 1. (n, rows, columns) in and out, rows <= columns.

    dtype: of the matrix products, which is that of the result.
    """
    x = (x / (1.01 * x.norm(dim=(1, 2), keepdim=True) + 1e-7)).to(dtype)  # No singular value is above 1 now.
    for a, b, c in POLAR_EXPRESS:
        s = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(s, s, s, beta=b, alpha=c), x, beta=a)
    return x


def find_updates(gradients, averages, rows, dtype) -> list:
    """The update of each matrix, whose average of gradients goes on by a step. rows, dtype: see Muon."""
    torch._foreach_lerp_(averages, gradients, 1 - MOMENTUM)
    updates = torch._foreach_lerp(gradients, averages, MOMENTUM)  # Nesterov: one step ahead
    by_shape = {}  # Parts of one shape are multiplied together, lying on their longer side.
    for update, n_rows in zip(updates, rows, strict=True):
        parts = update.unflatten(0, (-1, n_rows))
        parts = parts if parts.size(1) <= parts.size(2) else parts.mT
        by_shape.setdefault(parts.shape[1:], []).append(parts)
    for shape, stacks in by_shape.items():
        # Of this size it is, by its root mean square, as large as an update of AdamW.
        found = orthogonalize(torch.cat(stacks), dtype) * (0.2 * math.sqrt(max(shape)))
        torch._foreach_copy_(stacks, found.split([len(parts) for parts in stacks]))
    return updates


class Muon(torch.optim.AdamW):
    """AdamW, but for the groups with a key "rows" Muon.

    "rows": for each matrix of the group the rows of a part. Each part is made orthogonal by itself: the heads of q, k
    and v, for instance, are one matrix for speed only. dtype: of the matrix products.
    """

    def __init__(self, groups, dtype, **settings):
        super().__init__(groups, **settings)
        self.dtype = dtype
        # One flag of the float16 scaler decides for all groups: it would skip the step of AdamW alone.
        self._step_supports_amp_scaling = False

    def __setstate__(self, state):
        torch.optim.Optimizer.__setstate__(self, state)  # AdamW's own looks for its averages in all groups.

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            if "rows" in group:
                self.step_matrices(group)
        super().step()  # It skips what has no gradient any more.

    def step_matrices(self, group):
        matrices, lr = group["params"], group["lr"]
        for matrix in matrices:
            if not self.state[matrix]:
                self.state[matrix]["momentum_buffer"] = torch.zeros_like(matrix)
        averages = [self.state[matrix]["momentum_buffer"] for matrix in matrices]
        updates = find_updates([matrix.grad for matrix in matrices], averages, group["rows"], self.dtype)
        torch._foreach_mul_(matrices, 1 - lr * group["weight_decay"])
        torch._foreach_add_(matrices, updates, alpha=-lr)
        for matrix in matrices:
            matrix.grad = None
