import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys

import pytest
import torch

import sample
from lib.errors import UserError
from lib.run.checkpoint import load_checkpoint


def test_text_is_continued(run, capsys):
    model = sample.load("run")
    text = model.generate("曹操", max_new_tokens=30, seed=1)
    assert text.startswith("曹操") and len(text) > 2
    assert model.generate("曹操", max_new_tokens=0) == "曹操"
    ids = model.encode("曹操")
    continued = model.generate(ids, 30, temperature=0)
    assert torch.equal(continued[:, : ids.size(1)], ids)
    assert model.tokenizer.decode(continued[0].tolist()) == model.generate("曹操", 30, temperature=0)
    assert model.generate("", max_new_tokens=5, temperature=0) == model.generate("", max_new_tokens=5, top_k=1)
    capsys.readouterr()
    assert sample.main(["--run=run", "--prompt", "曹操", "--max_new_tokens=30", "--seed=1"]) == 0
    out, err = capsys.readouterr()
    assert out == text + "\n"
    assert "best.pt" in err and "validation loss" in err


def test_a_document_ends_at_eos_unless_told_otherwise(run):
    model = sample.load("run")
    ids = model.encode("曹操")
    free = model.generate(ids, 30, temperature=0, ignore_eos=True)
    assert free.size(1) == ids.size(1) + 30
    model.eos = free[0, ids.size(1) + 10].item()  # a token that comes, taken for the end
    end = ids.size(1) + free[0, ids.size(1) :].tolist().index(model.eos)
    assert torch.equal(model.generate(ids, 30, temperature=0), free[:, : end + 1])
    assert torch.equal(model.generate(ids, 30, temperature=0, ignore_eos=True), free)
    text = b"".join(model.token_bytes[i] for i in free[0, :end].tolist()).decode(errors="ignore")
    assert model.generate("曹操", 30, temperature=0) == text


def test_the_model_has_learned_the_style(run):
    text = sample.load("run").generate("曹操", max_new_tokens=60, temperature=0.5, seed=0, ignore_eos=True)
    assert any(word in text[2:] for word in ("丞相", "大军", "天下", "孔明", "次日", "玄德", "引兵", "刘备"))


def test_samples_differ_and_can_be_repeated(run, capsys):
    argv = ["--prompt=1949", "--num_samples=3", "--max_new_tokens=20", "--seed=7", "--ignore_eos"]
    assert sample.main(argv) == 0
    out = capsys.readouterr().out
    parts = out.removesuffix("\n").split("\n" + "-" * 40 + "\n")
    assert len(set(parts)) == 3 and all(part.startswith("1949") for part in parts)
    assert sample.main(argv) == 0
    assert capsys.readouterr().out == out


def test_max_new_tokens_zero_prints_the_prompt(run, capsys):
    assert sample.main(["--prompt=a=b c", "--max_new_tokens=0"]) == 0
    assert capsys.readouterr().out == "a=b c\n"


def test_prompts_from_files_and_pipes(run, tmp_path, capsys, monkeypatch):
    path, text = tmp_path / "prompt.txt", "却说玄德引兵而去，\n曹操曰：丞相大军已到城中，如何是好？"
    for encoding, line_end in (("utf-8-sig", "\n"), ("utf-8", "\r\n"), ("gb18030", "\n"), ("utf-16", "\r\n")):
        path.write_bytes(f"{text}\n".replace("\n", line_end).encode(encoding))
        assert sample.main([f"--prompt_file={path}", "--max_new_tokens=0"]) == 0
        assert capsys.readouterr().out == f"{text}\n", encoding
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(path.read_bytes())))
        assert sample.main(["--max_new_tokens=0"]) == 0
        assert capsys.readouterr().out == f"{text}\n", encoding


def test_a_sample_ends_before_a_stop_text(run, capsys):
    model, settings = sample.load("run"), {"max_new_tokens": 60, "seed": 1}
    text = model.generate("曹操", **settings)
    stop = text[12:14]
    expected = text[: text.index(stop, 2)]
    assert 2 < len(expected) < len(text)
    assert model.generate("曹操", stop=stop, **settings) == expected
    assert model.generate("曹操", stop=["never", stop], **settings) == expected
    assert (
        model.generate("曹操", stop=[text[-3:] + "never"], **settings) == text
    )  # What was held back comes in the end.
    argv = ["--run=run", "--prompt=曹操", "--max_new_tokens=60", "--seed=1"]
    capsys.readouterr()
    assert sample.main([*argv, "--stop=never", f"--stop={stop}"]) == 0
    assert capsys.readouterr().out == f"{expected}\n"
    assert sample.main(["--run=run", "--prompt=曹操", "--ignore_eos", "--stop=\\n", "--num_samples=5"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 9  # a line for each, and four between them


def test_many_prompts(run, tmp_path, capsys):
    path, out = tmp_path / "prompts.txt", tmp_path / "new" / "samples.jsonl"
    path.write_text("曹操\n\n玄德 \nhello", encoding="utf-8")
    argv = ["--run=run", "--max_new_tokens=20", "--seed=1"]
    assert sample.main([*argv, f"--prompts_file={path}", f"--out={out}", "--num_samples=2"]) == 0
    assert capsys.readouterr().out == f"saved {out}\n"
    records = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [record["prompt"] for record in records] == ["曹操", "曹操", "玄德 ", "玄德 ", "hello", "hello"]
    assert all(record.keys() == {"prompt", "text"} and record["text"] for record in records)

    # The same on the terminal, and for a prompt alone.
    samples = [record["prompt"] + record["text"] for record in records]
    assert sample.main([*argv, f"--prompts_file={path}", "--num_samples=2"]) == 0
    assert capsys.readouterr().out == f"\n{'-' * 40}\n".join(samples) + "\n"
    assert sample.main([*argv, "--prompt=玄德 ", "--num_samples=2"]) == 0
    assert capsys.readouterr().out == f"\n{'-' * 40}\n".join(samples[2:4]) + "\n"
    assert sample.main([*argv, "--prompt=玄德 ", "--num_samples=2", f"--out={out}"]) == 0
    assert [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()] == records[2:4]


def test_a_file_of_samples_is_whole_or_as_it_was(run, tmp_path, fails):
    out = tmp_path / "samples.jsonl"
    out.write_text("before", encoding="utf-8")
    checkpoint = torch.load(run / "best.pt", weights_only=True)
    checkpoint["model"]["norm.weight"].fill_(torch.nan)
    torch.save(checkpoint, run / "best.pt")
    assert "damaged" in fails(sample.main, ["--run=run", "--prompt=x", f"--out={out}"])
    assert out.read_text(encoding="utf-8") == "before" and list(tmp_path.glob("*samples*")) == [out]


def test_a_long_prompt_keeps_its_end(run, capsys):
    model = sample.load()
    prompt = "天下" * 100
    text = model.generate(prompt, max_new_tokens=40, temperature=0)
    assert "the model sees its last 31" in capsys.readouterr().err
    assert text.startswith(prompt)


def test_the_most_recent_run_is_the_default(run, capsys):
    shutil.copytree(run, run.parent / "newer")
    os.utime(run.parent / "newer" / "best.pt", (4e9, 4e9))
    sample.load()
    assert "newer" in capsys.readouterr().err
    for name in ("run", str(run), str(run / "best.pt")):
        sample.load(name)
        assert f"{os.sep}run{os.sep}best.pt" in capsys.readouterr().err
    for argv in (["run"], ["--run=run"], ["--max_new_tokens", "0", "run"]):
        assert sample.main([*argv, "--prompt=", "--max_new_tokens=0"]) == 0
        assert f"{os.sep}run{os.sep}best.pt" in capsys.readouterr().err
    sample.load("run", last=True)
    assert "ckpt.pt" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--temperature=-1", "temperature: -1 is not between 0 and inf"),
        ("--temperature=nan", "temperature"),
        ("--temperature=hot", "temperature: invalid number value: 'hot'"),
        ("--top_p=0", "top_p"),
        ("--top_p=1.5", "top_p"),
        ("--top_k=-1", "top_k"),
        ("--top_k=1.5", "top_k: invalid whole number value"),
        ("--min_p=2", "min_p"),
        ("--max_new_tokens=-1", "max_new_tokens"),
        ("--num_samples=0", "num_samples"),
        ("--repetition_penalty=0", "repetition_penalty"),
        ("--seed=-1", "seed"),
        ("--device=tpu", "device"),
        ("--promt=x", "promt"),
        ("--stop=", "--stop is empty"),
        ("run --run=other", "not allowed with"),
        ("--prompt=x --prompt_file=x", "not allowed with"),
        ("--prompts_file=x --prompt=", "not allowed with"),
        ("--prompt=x --out=.", "is a folder or a device"),
        (f"--prompt=x --out={os.devnull}", "is a folder or a device"),
    ],
)
def test_flags_that_are_usage_errors(home, fails, flag, words):
    assert words in fails(sample.main, flag.split(), code=2)


def test_a_file_of_samples_needs_a_prompt(home, fails, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    assert "--out needs --prompt" in fails(sample.main, ["--out=x.jsonl"], code=2)


def test_what_cannot_be_continued(run, fails, tmp_path):
    (tmp_path / "empty.txt").write_text(" \n", encoding="utf-8")
    (tmp_path / "long.txt").write_text("x" * (sample.LONGEST_PROMPT + 1), encoding="utf-8")
    for argv, words in (
        (["--prompt=\udcff"], "not valid text"),
        (["--prompt=x", "--run=none"], "no run named 'none'; there is run"),
        (["--prompt_file=nowhere.txt"], "nowhere.txt"),
        ([f"--prompts_file={tmp_path / 'empty.txt'}"], "holds no prompts"),
        ([f"--prompt_file={tmp_path / 'long.txt'}"], "longer than"),
        *([(["--prompt=x", "--device=cuda"], "cuda is not available")] if not torch.cuda.is_available() else []),
    ):
        assert words in fails(sample.main, argv)


def test_bytes_that_are_no_text_on_stdin(run, fails, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(50))))
    assert "stdin" in fails(sample.main, [])


def test_no_run_yet(home, fails):
    assert "train one first" in fails(sample.main, ["--prompt=x"])


def test_damaged_and_foreign_checkpoints(run, fails):
    good = (run / "best.pt").read_bytes()
    argv = ["--run=run", "--prompt=x"]
    for content in (b"", b"not a checkpoint", good[: len(good) // 2], good[:-100]):
        (run / "best.pt").write_bytes(content)
        assert "best.pt" in fails(sample.main, argv)
    whole = torch.load(io.BytesIO(good), weights_only=True)
    for foreign in (
        {"model": {}},
        [1],
        whole | {"config": {"n_layer": 2}},
        whole | {"config": {"layers": 2}},
        whole | {"config": 3},
        whole | {"tokenizer": "{}"},
        whole | {"model": {}},
        whole | {"model": 5},
    ):
        torch.save(foreign, run / "best.pt")
        assert "best.pt" in fails(sample.main, argv)
    whole["model"]["norm.weight"].fill_(torch.nan)
    torch.save(whole, run / "best.pt")
    assert "the weights are damaged" in fails(sample.main, argv)


class Payload:
    def __init__(self, witness):
        self.witness = witness

    def __reduce__(self):
        return os.mkdir, (self.witness,)


def test_a_checkpoint_cannot_execute_code(run, fails, tmp_path):
    witness = tmp_path / "executed"
    torch.save({"model": Payload(str(witness))}, run / "best.pt")
    assert "best.pt" in fails(sample.main, ["--run=run", "--prompt=x"])
    (run / "best.pt").write_bytes(pickle.dumps(Payload(str(witness)), protocol=2))
    with pytest.raises(UserError):
        load_checkpoint(run / "best.pt")
    assert not witness.exists()


@pytest.mark.skipif(os.name == "nt", reason="needs a Unix terminal")
def test_the_interactive_loop_on_a_terminal(clone, trained):
    import pty

    shutil.copytree(trained / "out", clone / "out")
    terminal, process_end = pty.openpty()
    command = [sys.executable, "sample.py", "--max_new_tokens=8", "--temperature=0"]
    process = subprocess.Popen(command, cwd=clone, stdin=process_end, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    os.write(terminal, "曹操\n".encode() + b"\xff\xff\n" + "玄德\n\x04".encode())
    out, err = (text.decode() for text in process.communicate(timeout=60))
    assert process.returncode == 0, err
    assert re.search("曹操.+\n", out) and re.search("玄德.+\n", out)
    assert "not valid text" in err and "Traceback" not in err
