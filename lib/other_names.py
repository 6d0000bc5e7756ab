"""What other tools call our keys and flags, so that a message can name ours."""

import difflib

# Ours, and what one has to know of it: the words of nanoGPT, transformers and llama.cpp that look unlike ours.
OTHER_NAMES = {
    "corpus": "data data_dir dataset_path input_file train_file",
    "val_corpus": "validation_file",
    "text_key": "text_column",
    "val_fraction": "test_size validation_split",
    "init_from": "model model_name_or_path from_pretrained",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_embd": "d_model hidden_dim hidden_size",
    "block_size": "context_length ctx_size max_length max_position_embeddings max_seq_len seq_len",
    "micro_batch_size; batch_size is that of a whole step: 8 passes of 4 are --batch_size=32 --micro_batch_size=4": (
        "gradient_accumulation_steps"
    ),
    "max_steps": "max_iters",
    "max_steps; train.py says how many epochs these are": "epochs num_epochs num_train_epochs",
    "max_steps; the cosine ends there": "lr_decay_iters",
    "learning_rate": "lr max_lr",
    "min_lr; as high as learning_rate, the rate stays constant": "decay_lr lr_scheduler_type",
    "averaging; the share of the run that it reaches back": "ema",
    "grad_clip": "max_grad_norm",
    "eval_interval": "eval_steps",
    "eval_interval; each evaluation saves": "always_save_checkpoint save_steps",
    "patience": "early_stopping_patience",
    "eval_tokens; tokens, not batches": "eval_iters",
    "log_interval": "logging_steps",
    "run": "checkpoint ckpt load model name out_dir output_dir",
    "resume": "resume_from_checkpoint",
    "overwrite": "force",
    "tensorboard": "report_to wandb wandb_log",
    "device": "cuda gpu",
    "dtype": "bf16 fp16 precision",
    "prompt": "p start text",
    "prompt_file": "f file",
    "num_samples": "n num_return_sequences",
    "max_new_tokens": "length max_length max_tokens n_predict",
    "temperature": "t temp",
    "out": "o outfile",
}


def hint(word, names) -> str:
    """What to add to "unknown …": what another tool's word is called among our names, or the closest of them."""
    word = word.lstrip("-").lower().replace("-", "_")
    ours = {name.lstrip("-"): name for name in names}
    for key, theirs in OTHER_NAMES.items():
        name, semicolon, note = key.partition(";")
        if name in ours and word in theirs.split():
            return f", here it is {ours[name]}{semicolon}{note}"
    match = difflib.get_close_matches(word, ours, n=1)
    return f", did you mean {ours[match[0]]}?" if match else ""
