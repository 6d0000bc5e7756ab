"""What other tools call our keys and flags, so that a message can name ours."""

import difflib

# Ours (and what one has to know of it): the words of nanoGPT, llama2.c, MiniMind, transformers and llama.cpp.
OTHER_NAMES = {
    "corpus": "data data_path data_dir data_file dataset_path file input input_file text train_data train_file",
    "val_corpus": "val_data val_file valid_file validation_file eval_file",
    "text_key": "text_column text_field json_key key field",
    "split": "separator sep delimiter",
    "val_fraction": "val_size val_split val_ratio test_size validation_split",
    "vocab_size": "vocab n_vocab",
    "init_from": "model model_name_or_path pretrained from_pretrained from_weight load_from",
    "n_layer": "n_layers num_layers num_hidden_layers layers depth",
    "n_head": "n_heads num_heads num_attention_heads heads",
    "n_kv_head": "n_kv_heads num_kv_heads num_key_value_heads",
    "n_embd": "n_embed n_emb d_model dim embed_dim emb_dim embedding_dim hidden_dim hidden_size",
    "intermediate_size": "d_ff ffn_dim",
    "norm_eps": "rms_norm_eps layer_norm_eps",
    "tie_embeddings": "tie_word_embeddings weight_tying",
    "block_size": "context_length context_size ctx_len n_ctx n_positions max_length max_position_embeddings max_seq_len"
    " max_seq_length seq_len seq_length",
    "dropout": "dropout_rate",
    "micro_batch_size": "per_device_batch_size per_device_train_batch_size device_batch_size",
    "micro_batch_size; batch_size is that of a whole step: 8 passes of 4 are --batch_size=32 --micro_batch_size=4": (
        "accumulation_steps grad_accum grad_accum_steps gradient_accumulation_steps"
    ),
    "max_steps": "max_iters iterations n_steps num_iterations num_steps num_train_steps steps total_steps",
    "max_steps; train.py says how many epochs these are": "epoch epochs max_epochs num_epochs num_train_epochs",
    "max_steps; the cosine ends there": "lr_decay_iters lr_decay_steps",
    "learning_rate": "lr max_lr peak_lr",
    "min_lr": "min_learning_rate lr_min final_lr",
    "min_lr; as high as learning_rate, the rate stays constant": "decay_lr lr_scheduler lr_scheduler_type",
    "warmup_steps": "warmup warmup_iters num_warmup_steps warmup_ratio",
    "beta1": "adam_beta1",
    "beta2": "adam_beta2",
    "averaging; the share of the run that it reaches back": "average_weights ema ema_decay swa use_ema",
    "grad_clip": "clip clip_grad gradient_clip max_grad_norm max_norm",
    "eval_interval": "eval_every eval_freq eval_steps val_interval",
    "eval_interval; each evaluation saves": "always_save_checkpoint save_every save_interval save_steps",
    "patience": "early_stop early_stopping early_stopping_patience",
    "eval_tokens; tokens, not batches": "eval_batches eval_iters",
    "log_interval": "log_every log_freq logging_steps print_every",
    "run": "checkpoint ckpt ckpt_path exp_name load model model_path name out_dir output_dir save_dir wandb_run_name",
    "resume": "from_resume resume_from resume_from_checkpoint",
    "overwrite": "overwrite_output_dir force",
    "tensorboard": "report_to use_wandb wandb wandb_log",
    "device": "cuda gpu use_cuda",
    "dtype": "amp bf16 fp16 mixed_precision precision torch_dtype",
    "compile": "torch_compile use_compile",
    "prompt": "input p prompt_text start start_text text",
    "prompt_file": "f file input_file",
    "num_samples": "n n_samples num_return_sequences samples",
    "max_new_tokens": "length max_gen_len max_length max_tokens n_predict num_tokens",
    "temperature": "t temp",
    "top_k": "k topk",
    "top_p": "topp",
    "repetition_penalty": "rep_penalty repeat_penalty",
    "stop": "stop_sequence stop_strings stop_words",
    "type": "dtype outtype quant quantize",
    "out": "o outfile output output_file",
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
