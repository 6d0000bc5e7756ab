"""The ~10M GPT, on 28 million characters of classical Chinese poetry, for one ordinary GPU."""

dataset = "poetry"
vocab_size = 5000
n_layer = 6
n_head = 6
n_kv_head = 2
n_embd = 384
block_size = 256
batch_size = 64
max_steps = 5000
learning_rate = 1e-3
embedding_lr = 1e-2
min_lr = 1e-4
warmup_steps = 1000
grad_clip = 1.0
eval_interval = 500
eval_tokens = 500_000
