"""The demo: a small GPT on 《三国演义》, trained on a laptop's CPU in two minutes with bfloat16, four without."""

dataset = "sanguo"
vocab_size = 4000
n_layer = 2
n_head = 4
n_kv_head = 2
n_embd = 128
block_size = 128
dropout = 0.1
batch_size = 6
max_steps = 4000
learning_rate = 1.5e-3
embedding_lr = 2e-2
min_lr = 6e-4
warmup_steps = 150
beta2 = 0.99
averaging = 0.15
eval_interval = 500
