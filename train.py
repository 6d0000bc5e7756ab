"""Train a GPT.

    python train.py config/small.py [--key=value ...] [--resume | --overwrite | --plan]
    torchrun --standalone --nproc_per_node=8 -- train.py config/base.py ...     on 8 GPUs

Reads   data/<dataset>/bpe<vocab_size>/
Writes  out/<run>/ckpt.pt (the latest state), best.pt (the best validation loss), loss_log.json, and
        samples.md: how the model continues the same few texts at each evaluation

Ctrl-C saves and stops; --resume goes on as if nothing had happened.
"""

from errors import TORCHRUN, UserError, is_out_of_memory, reports_errors, torchrun_store

import contextlib
import dataclasses
import itertools
import math
import os
import platform
import shlex
import signal
import statistics
import sys
import time

import numpy as np
import torch
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

import pretrained
from batches import Tokens, block_starts
from config import ArgumentParser, load_config
from device import device_name, pick_arithmetic, pick_device, set_up
from files import (
    BEST,
    LATEST,
    LOG,
    check_tensors,
    load_checkpoint,
    only_writer,
    parse_tokenizer,
    read_tokenizer,
    save_checkpoint,
    token_bytes,
)
from loss_log import Log, open_board
from model import GPT
from plan import Memory, format_time, print_measured, print_plan
from tokens import read_meta

SAMPLE_TOKENS = 100

# torchrun starts this script once for each GPU. Each process computes the gradient of its share of the batch; all make
# the same step, with the mean of their gradients, and so keep the same weights. Process 0 alone writes and prints.
RANK, PROCESSES = (int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])) if TORCHRUN else (0, 1)


def share_of_step(config):
    """Of the batch_size sequences of a step: (those of one process, those of one forward pass of it)."""
    limit = config.micro_batch_size or math.inf

    def divides(size):
        share = size // PROCESSES
        return size % PROCESSES == 0 and size % min(limit, size) == 0 and share % min(limit, share) == 0

    ways = range(config.batch_size, 0, -1), itertools.count(config.batch_size)
    below, above = (next(filter(divides, way), None) for way in ways)
    if below != above:
        passes = f" in passes of {config.micro_size}" if config.micro_batch_size else ""
        sizes = f"{below} and {above} do" if below else f"{above} does"
        raise UserError(
            f"batch_size: {config.batch_size} does not divide evenly among {PROCESSES} processes{passes}; {sizes}"
        )
    return below // PROCESSES, min(limit, below // PROCESSES)


def over_all(value, operation="sum"):
    """The sum, min or max of a number over all processes. By way of the CPU: no GPU has to be waited for."""
    if not TORCHRUN:
        return value
    result = torch.from_numpy(np.array(value))
    dist.all_reduce(result, getattr(dist.ReduceOp, operation.upper()))
    return result.tolist()


def check_agreement(mine):
    """Raise UserError unless the processes begin alike: each machine may have files of its own."""
    everyone = [None] * PROCESSES
    dist.all_gather_object(everyone, (platform.node(), mine))
    for rank, (machine, theirs) in enumerate(everyone):
        for key, value in everyone[0][1].items():
            if theirs[key] != value:
                raise UserError(
                    f"process {rank} on {machine} has {key} {theirs[key]}, process 0 on {everyone[0][0]} has {value};"
                    " every machine needs the same config, data/ and out/, on a shared disk for instance"
                )


def own_device(name):
    """pick_device; under torchrun, a GPU for each process."""
    device = pick_device(name)
    if TORCHRUN and device.type == "mps":
        raise UserError("device mps is for one process; use --device=cpu, or start without torchrun")
    if TORCHRUN and device.type == "cuda":
        gpus, processes = torch.cuda.device_count(), os.environ["LOCAL_WORLD_SIZE"]
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        if device.index >= gpus:
            raise UserError(f"{platform.node()} has {gpus} GPUs for {processes} processes; use --nproc_per_node={gpus}")
        torch.cuda.set_device(device)
    return device


def get_lr(step, config) -> float:
    """Linear warmup, a plateau of hold_steps, then a cosine down to min_lr."""
    # 1) warmup, from the first step on above zero
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / (config.warmup_steps + 1)
    # 2) plateau
    decay_start = config.warmup_steps + config.hold_steps
    if step < decay_start:
        return config.learning_rate
    # 3) cosine
    progress = (step - decay_start) / max(1, config.max_steps - decay_start)
    return config.min_lr + 0.5 * (1 + math.cos(math.pi * progress)) * (config.learning_rate - config.min_lr)


class Evaluation:
    """The validation loss over the same non-overlapping windows every time."""

    def __init__(self, config, tokens, token_lengths):
        limit = min(config.eval_tokens or len(tokens), len(tokens) - 1)
        self.starts = np.arange(max(1, limit // config.block_size)) * config.block_size
        self.n_tokens = len(self.starts) * config.block_size
        self.tokens, (_, self.batch_size) = tokens, share_of_step(config)
        # What these tokens stand for. Per byte and per character the loss can be compared between tokenizers.
        self.bytes = self.characters = 0
        for first in range(0, len(self.starts), 1024):
            ids = tokens.read(self.starts[first : first + 1024] + 1, config.block_size).ravel()
            self.bytes += int(token_lengths[0][ids].sum())
            self.characters += int(token_lengths[1][ids].sum())
        self.starts = np.array_split(self.starts, PROCESSES)[RANK]

    @torch.no_grad()
    def run(self, model, autocast, stop) -> dict:
        """The loss in its several units; after a signal to stop, of the first windows only."""
        model.eval()
        nats = count = 0
        for first in range(0, len(self.starts), self.batch_size):
            idx, targets = self.tokens.blocks(self.starts[first : first + self.batch_size])
            with autocast:
                nats += model(idx, targets).item() * targets.numel()
            count += targets.numel()
            if stop.signal:
                break
        model.train()
        nats, count = over_all([float(nats), float(count)])
        loss, bits = nats / count, nats / math.log(2)
        return {
            "val_loss": loss,
            "val_ppl": math.exp(min(loss, 600.0)),
            "val_bpb": bits / max(1, self.bytes),
            "val_bpc": bits / max(1, self.characters),
        }


def token_lengths(tokenizer):
    """Per token id, the bytes it stands for and the characters that begin in it."""
    pieces = token_bytes(tokenizer)
    characters = [sum(byte & 0xC0 != 0x80 for byte in piece) for piece in pieces]
    return np.array([len(piece) for piece in pieces]), np.array(characters)


def read_prompts(setting, val_tokens, pieces) -> list[str]:
    """The texts that the model continues at each evaluation. For an empty one, how the validation text begins."""
    ids = val_tokens.read(np.array([0]), min(64, len(val_tokens)))[0]
    first_line = b"".join(pieces[i] for i in ids).decode(errors="ignore").strip().partition("\n")[0]
    return [prompt or first_line[:12] for prompt in setting.split("|")] if setting else []


def continue_prompts(model, prompts) -> dict:
    """{prompt: its continuation}. The seed is always the same, so that what changes is the model."""
    model.eval()
    texts = {prompt: model.generate(prompt, SAMPLE_TOKENS, seed=0).removeprefix(prompt) for prompt in prompts}
    model.train()
    return texts


def make_optimizers(model, config) -> list:
    """AdamW, and Muon if it is asked for. A group's `peak` is its learning rate at the top of the schedule.

    Muon (https://arxiv.org/abs/2502.16982) makes the update of a matrix orthogonal, which has a meaning for
    matrices between two layers only: the embedding, the head and the vectors stay with AdamW.
    """
    inner = [p for p in model.blocks.parameters() if p.dim() >= 2]
    head = [] if model.config.tie_embeddings else [model.lm_head.weight]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    decay, peak, muon = config.weight_decay, config.learning_rate, config.optimizer == "muon"
    groups = [
        {"params": [model.embedding.weight], "weight_decay": decay, "peak": config.embedding_lr or peak},
        {"params": head if muon else inner + head, "weight_decay": decay, "peak": peak},
        {"params": vectors, "weight_decay": 0.0, "peak": peak},
    ]
    optimizers = [torch.optim.AdamW(groups, lr=0.0, betas=(config.beta1, config.beta2), fused=True)]
    if muon:
        group = {"params": inner, "weight_decay": decay, "peak": peak}
        optimizers.append(torch.optim.Muon([group], lr=0.0, adjust_lr_fn="match_rms_adamw"))
    return optimizers


class Stop:
    """Remembers Ctrl-C and SIGTERM until the loop can act on them; a second one ends at once."""

    signal = 0

    def __enter__(self):
        heard = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) != signal.SIG_IGN]
        self.previous = {number: signal.signal(number, self.receive) for number in heard}
        return self

    def receive(self, number, frame):
        self.signal = number
        if TORCHRUN:  # it passes on what a terminal or a scheduler may have sent already: a second one means nothing
            return
        self.__exit__()
        with contextlib.suppress(OSError):
            os.write(2, b"\nstopping after this step; once more to stop at once\n")  # print may be at work itself

    def agreed(self):
        """The signal that any of the processes has heard: asked where all of them pass, so that all stop together."""
        if heard := over_all(self.signal, "max"):
            self.signal = heard
        return heard

    def __exit__(self, *_):
        for number, handler in self.previous.items():
            signal.signal(number, handler)


SHAPE = ("n_layer", "n_head", "n_kv_head", "n_embd", "head_size", "ffn_size")
SHAPE += ("rope_theta", "norm_eps", "tie_embeddings", "block_size", "optimizer")


def read_resumed(config, tokenizer_json):
    """The checkpoint that --resume goes on from, None if there is none yet."""
    path = config.run_dir / LATEST
    if not path.exists():
        return None
    checkpoint = load_checkpoint(path, resumable=True)
    old = checkpoint["config"]
    for key in SHAPE:
        if getattr(old, key) != getattr(config, key):
            raise UserError(
                f"{path} was trained with {key} {getattr(old, key)}, the config says {getattr(config, key)};"
                " resume with the same one, or start another run with --run=NAME"
            )
    if checkpoint["tokenizer"] != tokenizer_json:
        raise UserError(f"{path} was trained with another tokenizer than {config.tokens_dir} has; start another --run")
    if checkpoint["step"] > config.max_steps:
        raise UserError(f"{path} is at step {checkpoint['step']:,} already; raise max_steps ({config.max_steps:,})")
    return checkpoint


def restore(checkpoint, model, optimizers, scaler, path):
    """Set the weights and what the optimizers remember. Learning rate, betas and decay stay those of the config."""
    check_tensors(checkpoint["model"], model.state_dict(), path)
    model.load_state_dict(checkpoint["model"])
    if len(checkpoint["optimizer"]) != len(optimizers):
        raise UserError(f"{path}: damaged: it has the state of {len(checkpoint['optimizer'])} optimizers")
    for saved, optimizer in zip(checkpoint["optimizer"], optimizers, strict=True):
        if not saved["state"]:  # before the first step
            continue
        for i, p in enumerate(p for group in optimizer.param_groups for p in group["params"]):
            muon = isinstance(optimizer, torch.optim.Muon)
            expected = {"momentum_buffer": p} if muon else {"step": torch.zeros(()), "exp_avg": p, "exp_avg_sq": p}
            check_tensors(saved["state"].get(i, {}), expected, path)
        optimizer.load_state_dict({"state": saved["state"], "param_groups": optimizer.state_dict()["param_groups"]})
    if checkpoint["scaler"]:  # none but in float16
        scaler.load_state_dict(scaler.state_dict() | checkpoint["scaler"])


def flops_per_token(model) -> int:
    """Of a training step: 6 a weight, and attention's products (https://arxiv.org/abs/2204.02311, appendix B)."""
    c = model.config
    return 6 * sum(model.parameter_counts()) + 12 * c.n_layer * c.n_head * c.head_size * c.block_size


def should_compile(model, device) -> bool:
    """auto: always on a GPU; on a CPU, where it takes half a minute and saves a sixth of a step, in longer runs."""
    c = model.config
    if c.compile != "auto":
        return c.compile == "on"
    work = flops_per_token(model) * c.max_steps * c.batch_size * c.block_size
    return device.type == "cuda" or (device.type == "cpu" and work > 2e14)  # ten minutes on two cores


def compile_model(model, idx, targets, autocast):
    """torch.compile(model), or the model itself where that does not work."""
    compiled = torch.compile(model)
    start = time.perf_counter()
    print("compiling …", flush=True)
    try:
        with autocast:
            loss = compiled(idx, targets)
        loss.backward()
    except Exception as error:  # no compiler, no Triton, a bug in either: training goes on without
        if is_out_of_memory(error):
            raise
        print(f"warning: torch.compile failed ({type(error).__name__}); going on without it, slower", file=sys.stderr)
        return model
    finally:
        model.zero_grad(set_to_none=True)
    print(f"compiled in {time.perf_counter() - start:.0f} s")
    return compiled


def diverged(step, run_dir):
    return UserError(
        f"the loss or its gradient is no longer finite at step {step:,}; {run_dir} keeps the last good checkpoint. Try"
        " a lower learning_rate, more warmup_steps, a smaller grad_clip, or dtype float32 or bfloat16 for float16"
    )


@reports_errors
def main(argv=None):
    if RANK:  # process 0 speaks for all
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--resume", action="store_true", help="go on from out/<run>/ckpt.pt, if it is there")
    parser.add_argument("--overwrite", action="store_true", help="start anew although the run exists")
    parser.add_argument(
        "--plan", action="store_true", help="make a few steps, say what the run would take, save nothing"
    )
    config, args = load_config(argv, parser)
    share, micro_size = share_of_step(config)
    restarts = 0
    if TORCHRUN:
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
        dist.init_process_group(backend, store=torchrun_store(), rank=RANK, world_size=PROCESSES)
        restarts = over_all(int(os.environ["TORCHELASTIC_RESTART_COUNT"]), "max")

    # --- data
    tokenizer_json = read_tokenizer(config.tokens_dir)
    meta = read_meta(config.tokens_dir)
    device = own_device(config.device)
    train_tokens = Tokens(config, meta, "train", device)
    tokenizer = parse_tokenizer(tokenizer_json, config.tokens_dir / "tokenizer.json")
    if tokenizer.get_vocab_size() != meta["vocab_size"]:
        raise UserError(f"{config.tokens_dir}/meta.json is damaged (vocab_size); run prepare.py with the same config")
    val_tokens = Tokens(config, meta, "val", device)
    evaluation = Evaluation(config, val_tokens, token_lengths(tokenizer))

    # --- model and optimizer
    dtype, autocast, scaler = pick_arithmetic(config.dtype, device)
    set_up(device)
    torch.manual_seed(config.seed)
    n_rows = config.vocab_size if config.init_from else meta["vocab_size"]  # published models have spare ones
    if n_rows < meta["vocab_size"]:
        raise UserError(
            f"{config.init_from} has {n_rows:,} embeddings for {meta['vocab_size']:,} tokens; is it damaged?"
        )
    model = GPT(config, n_rows).to(device)
    model.set_tokenizer(tokenizer, config.tokens_dir / "tokenizer.json")
    prompts = read_prompts(config.prompts, val_tokens, model.token_bytes)
    parameters = list(model.parameters())
    optimizers = make_optimizers(model, config)

    writes = RANK == 0 and not args.plan
    with (
        contextlib.nullcontext(Stop()) if args.plan else Stop() as stop,  # a plan has nothing to save
        only_writer(config.run_dir) if writes else contextlib.nullcontext(),
    ):
        # --- where to begin
        run_dir, first_step, best_val_loss, seconds_before, records = config.run_dir, 0, math.inf, 0.0, []
        found = [name for name in (LATEST, BEST, LOG) if (run_dir / name).exists()]
        resume = args.resume
        if restarts and found and not resume:  # torchrun gives the same command again: is this what it has begun?
            resume = found[0] != LOG and load_checkpoint(run_dir / found[0])["config"] == config
        if found and not (resume or args.overwrite or args.plan):
            ways = "--resume goes on with it, --run=NAME starts another, --overwrite replaces it"
            raise UserError(f"{run_dir} exists; {ways}")
        checkpoint = read_resumed(config, tokenizer_json) if resume else None
        if checkpoint:
            restore(checkpoint, model, optimizers, scaler, run_dir / LATEST)
            first_step, best_val_loss = checkpoint["step"], checkpoint["best_val_loss"]
            records = checkpoint["records"]
            seconds_before = checkpoint["seconds"]
            if checkpoint["data"] != meta["train"]["sha256"]:
                print("warning: the training tokens are not those that this run began with")
        elif config.init_from:
            if pretrained.read_tokenizer(config.init_from) != tokenizer_json:
                raise UserError(f"{config.tokens_dir} has another tokenizer than init_from; run prepare.py again")
            pretrained.load_weights(config.init_from, model)
        begin = {"device": device.type, "training tokens": meta["train"]["sha256"][:12], "first step": first_step}
        if TORCHRUN:
            check_agreement(dataclasses.asdict(config) | begin)
        if writes and not checkpoint:
            (run_dir / LATEST).unlink(missing_ok=True)  # or, after a crash, --resume would go on with the old run

        # --- compile: a first step whose gradients are thrown away
        compiled = should_compile(model, device)
        how = f"{str(dtype).removeprefix('torch.')}, {'compiled' if compiled else 'eager'}"
        how += f", {PROCESSES} processes" if PROCESSES > 1 else ""
        memory = Memory(model, optimizers, dtype, autocast)
        fits = print_plan(config, meta, model, memory, share, micro_size, device, how)
        if args.plan and not over_all(fits, "min"):
            return 0  # to find out by running out of memory is no plan
        n_starts = len(train_tokens) - config.block_size
        forward = model
        if compiled:
            starts = block_starts(config.seed, first_step, micro_size, n_starts)
            forward = compile_model(model, *train_tokens.blocks(starts), autocast)
        if TORCHRUN:  # from here on, backward() leaves the mean gradient of all processes
            forward = DistributedDataParallel(forward, gradient_as_bucket_view=True)
            # Nothing changes the buffers, those of RoPE. Said to the constructor, it makes torch 2.13 warn.
            forward.broadcast_buffers = False

        header = {
            "config": dataclasses.asdict(config),
            "hardware": {
                "device": device.type,
                "name": device_name(device),
                "processes": PROCESSES,
                "torch": torch.__version__,
            },
            "data": {split: meta[split] for split in ("train", "val")},
            "vocab_size": meta["vocab_size"],
            "unigram_entropy": meta["unigram_entropy"],
        }
        log = Log(header, records, open_board(run_dir) if config.tensorboard and writes else None)
        if checkpoint:
            log.line(f"resumed {run_dir / LATEST} at step {first_step:,}")
        if checkpoint and writes:
            log.save(run_dir)  # a crash may have come between the checkpoint and its log

        # --- train
        step_tokens = config.batch_size * config.block_size
        log_interval = config.log_interval or max(1, config.max_steps // 1000)
        n_micro = share // micro_size
        never = config.max_steps + 1
        bad_step = torch.full((), never, device=device)  # the first that is not finite; read before a save or log line
        seconds, start_time = seconds_before, time.perf_counter()
        mark_time = pace_time = start_time
        mark_step = first_step
        begun = []  # for --plan: when each step began
        for step in range(first_step, config.max_steps + 1):
            # learning rate
            lr = get_lr(step, config)
            for group in (group for optimizer in optimizers for group in optimizer.param_groups):
                group["lr"] = lr * group["peak"] / config.learning_rate

            # evaluate and save
            last, stopping = step == config.max_steps, stop.agreed()
            due = (step % config.eval_interval == 0 or last) and not log.has_evaluation(step) and not args.plan
            if due or stopping:
                if (bad := over_all(bad_step.item(), "min")) < never:
                    raise diverged(bad, run_dir)
                result = evaluation.run(model, autocast, stop)
                if not math.isfinite(result["val_loss"]):
                    raise diverged(step, run_dir)
                stopping = stop.agreed()  # perhaps in the middle of the evaluation, which is then not of use
                state = {
                    "model": model.state_dict(),
                    "config": dataclasses.asdict(config),
                    "tokenizer": tokenizer_json,
                    "step": step,
                }
                seconds = seconds_before + time.perf_counter() - start_time
                if due and not stopping:
                    log.add(step, tokens=step * step_tokens, seconds=seconds, lr=lr, **result)
                    log.line(
                        f"step {step:,}: validation loss {result['val_loss']:.4f} nats, PPL {result['val_ppl']:.2f},"
                        f" {result['val_bpc']:.4f} bits per character, {result['val_bpb']:.4f} per byte"
                    )
                    log.add_samples(step, continue_prompts(model, prompts) if writes else {})
                    if result["val_loss"] < best_val_loss:
                        best_val_loss = result["val_loss"]
                        if writes:
                            save_checkpoint(run_dir / BEST, state | {"val_loss": best_val_loss})
                resumable = {
                    "optimizer": [optimizer.state_dict() for optimizer in optimizers],
                    "scaler": scaler.state_dict(),
                    "best_val_loss": best_val_loss,
                    "data": meta["train"]["sha256"],
                    "seconds": seconds,
                    "records": log.records,
                }
                if writes:
                    save_checkpoint(run_dir / LATEST, state | resumable)
                    log.save(run_dir)
                mark_time, mark_step = time.perf_counter(), step
                if step == first_step:
                    pace_time = mark_time
            if args.plan:
                bad_step.item()  # waits for the device
                begun.append(time.perf_counter())
                stopping = over_all(len(begun) > 4 and begun[-1] - begun[0] > 5, "max")
            if last or stopping:
                break

            # forward and backward
            if config.dropout:
                torch.manual_seed(config.seed + 1_000_003 * step + 10_007 * RANK)
            starts = np.split(block_starts(config.seed, step, config.batch_size, n_starts), PROCESSES)[RANK]
            loss = torch.zeros((), device=device)
            for i, part in enumerate(np.split(starts, n_micro), 1):
                idx, targets = train_tokens.blocks(part)
                # Only the last pass exchanges gradients, the sum of them all.
                with forward.no_sync() if TORCHRUN and i < n_micro else contextlib.nullcontext():
                    with autocast:
                        part_loss = forward(idx, targets) / n_micro
                    scaler.scale(part_loss).backward()
                loss += part_loss.detach()

            # clip
            for optimizer in optimizers:
                scaler.unscale_(optimizer)
            grad_norm = torch.nn.utils.clip_grad_norm_(parameters, config.grad_clip or math.inf)

            # step
            for optimizer in optimizers:
                scaler.step(optimizer)
            scaler.update()
            model.zero_grad(set_to_none=True)
            # The scaler expects gradients that overflow, and skips their step; without it they are fatal.
            finite = (loss if scaler.is_enabled() else loss + grad_norm).isfinite()
            bad_step = bad_step.minimum(torch.where(finite, never, step))

            # log
            if step % log_interval == 0 and not args.plan:
                train_loss, norm = over_all(loss.item()) / PROCESSES, grad_norm.item()
                bad = over_all(bad_step.item(), "min")
                if bad < never or (scaler.is_enabled() and scaler.get_scale() < 1e-4):  # skipped for long
                    raise diverged(min(bad, step), run_dir)
                now = time.perf_counter()
                speed = (step + 1 - mark_step) * step_tokens / (now - mark_time)
                seconds = seconds_before + now - start_time
                log.add(
                    step,
                    tokens=step * step_tokens,
                    seconds=seconds,
                    lr=lr,
                    train_loss=train_loss,
                    grad_norm=norm,
                    tokens_per_second=speed,
                )
                mark_time, mark_step = now, step + 1
                eta = (config.max_steps - step) * (now - pace_time) / (step + 1 - first_step)
                log.progress(  # fits a terminal of 80 columns
                    f"step {step}/{config.max_steps} loss {train_loss:.3f} val {log.last_val_loss():.3f} lr {lr:.1e}"
                    f" norm {norm:.1f} {speed / 1000:,.1f}k tok/s ETA {format_time(eta)}"
                )

        if TORCHRUN:
            dist.barrier()  # until process 0 has saved: torchrun ends the others when one has failed

    if args.plan:
        if len(begun) > 1:  # the run is not at its end
            step_seconds = statistics.median(np.diff(begun)[-max(1, len(begun) - 2) :])
            print_measured(config, config.max_steps - first_step, step_seconds, evaluation.n_tokens, device)
        return 0
    if stopping:
        words = [word for word in args.argv if word not in ("--resume", "--overwrite")]
        start = "torchrun … train.py" if TORCHRUN else "python train.py"
        print(f"saved step {step:,}; go on with: {start} {shlex.join(words)} --resume")
        return 128 + stopping
    print(f"done in {format_time(seconds)}: best validation loss {best_val_loss:.4f}, saved in {run_dir}")
    run = shlex.quote(config.run)
    print(f"next: python report.py {run}")
    print(f"      python sample.py --run={run} --prompt={shlex.quote(prompts[-1] if prompts else '你好')}")
    print(f"      python plot_loss.py {run}")


if __name__ == "__main__":
    code = main()
    if TORCHRUN:  # a thread of gloo that lets go of its last tensor while Python shuts down would abort the process
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)
