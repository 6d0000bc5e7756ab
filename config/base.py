"""GPT-2-small size, for a large corpus of your own on one or more big GPUs."""

dataset = "poetry"
vocab_size = 32000
n_layer = 12
n_head = 12
n_kv_head = 4
n_embd = 768
block_size = 1024
batch_size = 512
micro_batch_size = 32
max_steps = 20000
learning_rate = 6e-4
embedding_lr = 6e-4
min_lr = 6e-5
warmup_steps = 700
eval_interval = 500
eval_tokens = 2_000_000
