"""Go on training a published Qwen3 model, on a text of your own: see docs/pretrained.md."""

init_from = "models/Qwen3-0.6B-Base"
dataset = "sanguo"
block_size = 512
batch_size = 16
micro_batch_size = 1
max_steps = 200
learning_rate = 2e-5
embedding_lr = 0.0  # as learning_rate
min_lr = 2e-6
warmup_steps = 20
eval_interval = 50
eval_tokens = 50_000
