import json

from tools.lab import experiments


def test_every_result_is_kept(home, monkeypatch, capsys):
    """Several jobs end at the same time, and a second call computes none of them again."""
    trained = []

    def train(config, flags, seed, run):
        trained.append(run)
        return 2.0 + seed, 3.0

    monkeypatch.setattr(experiments, "train", train)
    for _ in range(2):
        assert experiments.main(["config/tiny.py", "dropout=0", "--seeds=20", "--jobs=8"]) == 0
        assert capsys.readouterr().out.count("11.5000 ") == 2
    assert len(set(trained)) == len(trained) == 40
    results = json.loads((home / "out" / "experiments.json").read_text(encoding="utf-8"))
    assert len(results) == 40 and results["config/tiny.py dropout=0 seed=7"] == [9.0, 3.0]
