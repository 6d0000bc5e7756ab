"""A GPT of 4.2M parameters on 28 million characters of classical Chinese poetry, for an hour of a laptop's CPU."""

dataset = "poetry"
vocab_size = 5000
n_layer = 4
n_head = 4
n_kv_head = 2
n_embd = 256
block_size = 256
batch_size = 16
max_steps = 9000
optimizer = "muon"
learning_rate = 2e-3
embedding_lr = 1e-2
min_lr = 1e-4
warmup_steps = 300
beta2 = 0.99
averaging = 0.03
eval_interval = 900
eval_tokens = 200_000
