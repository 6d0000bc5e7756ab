"""The demo: a small GPT on 《三国演义》, trained on a CPU in two minutes with bfloat16, in three and a half without."""

dataset = "sanguo"
vocab_size = 4000
n_layer = 3
n_head = 4
n_kv_head = 2
n_embd = 128
block_size = 128
batch_size = 12
max_steps = 1000
optimizer = "muon"
learning_rate = 3e-3
embedding_lr = 2e-2
min_lr = 2e-3
warmup_steps = 80
beta2 = 0.99
averaging = 0.2
eval_interval = 250
