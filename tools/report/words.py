"""What the report says of a run, in English and in Chinese. verdict.py chooses which of it, and with which figures."""

from typing import NamedTuple


class Said(NamedTuple):
    """A text in both languages. A page holds both and shows one; the terminal shows the English one."""

    english: str
    chinese: str

    def format(self, **figures):
        return Said(*(text.format(**figures) for text in self))


MEMORISING = Said("memorising", "死记硬背")
OVERFITTING = Said("overfitting", "过拟合")
UNDERTRAINED = Said("undertrained", "训练不足")
HEALTHY = Said("healthy", "健康")

# --- evidence of several verdicts

BELOW_BIGRAM = Said(
    "{loss:.2f} nats is below the {bigram:.2f} of a model that knows only pairs of tokens.",
    "{loss:.2f} nats 低于 bigram 模型的 {bigram:.2f}，后者只知道哪个 token 后面跟哪个。",
)
NOT_BELOW_BIGRAM = Said(
    "{loss:.2f} nats is not below the {bigram:.2f} of a model that knows only pairs of tokens.",
    "{loss:.2f} nats 并不低于 bigram 模型的 {bigram:.2f}，而后者只知道哪个 token 后面跟哪个。",
)
GAP = Said(
    "On samples of at most {n:,} tokens, the loss is {val:.2f} nats on validation text and {train:.2f} on training"
    " text. Of the difference, {own:.2f} is the texts’ own, as a unigram model shows. The likeliest token is right"
    " {val_right:.0%} and {train_right:.0%} of the time.",
    "各抽取至多 {n:,} 个 token 来测：验证文本上的损失是 {val:.2f} nats，训练文本上是 {train:.2f}。两者相差的部分里，"
    "有 {own:.2f} 来自文本本身的难易，这是用 unigram 模型量出来的。首选命中率分别是 {val_right:.0%} 和"
    " {train_right:.0%}。",
)
COPIES = Said(
    "Of its sequences of 8 characters, {model:.1%} appear word for word in the training text, against {text:.1%} in"
    " real text. Its longest copy is {model_longest} characters, that of real text {text_longest}.",
    "它写的 8 字片段有 {model:.1%} 原样出现在训练文本里，真实文本是 {text:.1%}。它最长照抄了 {model_longest} 个字，"
    "真实文本是 {text_longest} 个。",
)

# --- memorising

RECITES = Said("It recites its training text", "它在背诵训练文本")
RECITED = Said(
    "{copied:.0%} of its sequences of 16 characters appear word for word in the training text, more than twice the"
    " share in real text ({usual:.1%}). Its longest copy is {longest} characters.",
    "它写的 16 字片段有 {copied:.0%} 原样出现在训练文本里，真实文本只有 {usual:.1%}。它最长照抄了 {longest} 个字。",
)
MORE_TEXT = Said(
    "Train on more text: a model of this size learns a short text by heart.",
    "用更多的文本训练：文本短，这么大的模型就会把它背下来。",
)
OR_RECIPE = Said(
    "Or let {recipe} choose a size, a number of steps and a weight decay that suit this text.",
    "或者让 {recipe} 为这份文本选择合适的模型大小、步数和权重衰减。",
)

# --- overfitting

HAS_OVERFITTED = Said("It has been overfitting since step {step:,}", "从第 {step:,} 步起，它开始过拟合")
TURNED = Said(
    "The validation loss was lowest, {lowest:.2f} nats, at step {step:,} of {last_step:,}. It has since risen to"
    " {last:.2f}, while the training loss went on falling.",
    "验证损失在第 {step:,} 步（共 {last_step:,} 步）最低，是 {lowest:.2f} nats；后来它升到 {last:.2f}，"
    "训练损失却还在下降。",
)
BEST_IS_KEPT = Said(
    "Nothing is lost: best.pt holds the weights of step {step:,}, and sample.py and tools.export use them.",
    "什么都没有丢：best.pt 里保存着第 {step:,} 步的权重，sample.py 和 tools.export 用的就是它。",
)
BEST_IS_MORE_TEXT = Said(
    "Best of all is more text. For this one, {recipe} chooses a size, a number of steps and a weight decay that suit"
    " it.",
    "最好的办法是增加文本。如果只有这一份，{recipe} 会选出适合它的模型大小、步数和权重衰减。",
)

# --- undertrained

COULD_LEARN_MORE = Said("It could learn more from the same text", "同样的文本，它还能学到更多")
STEPS_MADE = Said(
    "It has made {step:,} of its {max_steps:,} steps.", "计划训练 {max_steps:,} 步，现在才到第 {step:,} 步。"
)
LITTLE_READ = Said(
    "It has read {epochs:.0%} of its text, {per_parameter} tokens for each parameter (about 20 suit a model best).",
    "它只读了文本的 {epochs:.0%}，平均每个参数 {per_parameter} 个 token（约 20 个最合适）。",
)
PATIENCE_ENDED_IT = Said(
    "Its patience has ended it: go on from here with `--resume --patience=0`.",
    "早停（patience）结束了训练：用 `--resume --patience=0` 从这里接着训练。",
)
FINISH = Said(
    "Let it come to its end: the same command with `--resume`.", "让它把剩下的步数训练完：同一条命令加上 `--resume`。"
)
TRAIN_LONGER = Said(
    "Train longer: from the beginning with `{flag}`, or on from here with `--resume {flag}`.",
    "训练得久一些：用 `{flag}` 从头开始，或者用 `--resume {flag}` 从这里接着训练。",
)
FALLS_SLOWLY = Said(
    "If the loss falls slowly from the beginning on, a higher `learning_rate` may be all it needs.",
    "如果损失从一开始就降得很慢，也许只要把 `learning_rate` 调高。",
)

# --- healthy

HAS_LEARNED = Said("It has learned from the text, not learned it by heart", "它从文本中学到了规律，而不是背下了原文")
CAME_DOWN = Said(
    "The validation loss came down to {lowest:.2f} nats and stayed there to the end. " + BELOW_BIGRAM.english,
    "验证损失降到 {lowest:.2f} nats，并且一直保持到最后。" + BELOW_BIGRAM.chinese,
)
USE_IT = Said(
    "Talk to it: `python sample.py --run={run}`. Take it elsewhere: `python -m tools.export {run}`.",
    "让它写：`python sample.py --run={run}`。拿到别的工具里用：`python -m tools.export {run}`。",
)
GO_FURTHER = Said(
    "To go further, take more text or more time: {recipe} says which model they are enough for.",
    "想更进一步，就增加文本或者训练时间：{recipe} 会告诉你，它们够训练什么样的模型。",
)

# --- a token that is pointed at

GUESS = Said(
    "{bits:.1f} bits: its guess number {rank:,}, {share:.2%}",
    "{bits:.1f} 比特：它的第 {rank:,} 个猜测，{share:.2%}",
)
NUMBER, BYTES = Said("token {i:,}", "token 编号 {i:,}"), Said("bytes {hex}", "字节 {hex}")
