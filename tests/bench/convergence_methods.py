"""What tests/bench/convergence runs: models and methods, as data."""
from typing import NamedTuple

DECAY = "weight_decay=0.1"

ADAM = (3e-3, 6e-3, 1.2e-2)
LION = (2.5e-4, 4e-4, 6e-4)
SGD = (0.1, 0.3, 1.0)
TURNS = (1e-3, 2e-3, 3e-3)  # every turn begins with steps as long as the first
LOW_RANK = (7e-3, 1.4e-2, 2.8e-2)
WIDE = (1e-3, 3e-3, 1e-2)


class Method(NamedTuple):
    """limit: percent that the mean loss may lie above AdamW's; None: reported only. settings: optim.NAME where there is
    no dot. DECAY is added unless decay is false. optim: value of optim.method, where it is not the name."""
    name: str
    lrs: tuple
    limit: float | None = None
    settings: str = ""
    optim: str = ""
    decay: bool = True

    def method(self):
        return self.optim or self.name

    def words(self):
        every = [f"optim.method={self.method()}", *self.settings.split(), *([DECAY] if self.decay else [])]
        return ["--" + (word if "." in word.split("=")[0] else "optim." + word) for word in every]


# SGD couples decay to the gradient, where momentum multiplies it by ten: 0. Lion's rates are a tenth of AdamW's, its decay
# 15 times as large; SGD-SaI has none. Muon's AdamW side runs at its own rate.
METHODS = (
    Method("adamw", ADAM, None, "beta2=0.95"),
    Method("sgd", SGD, None, "momentum=0.9", decay=False),
    Method("lion", LION, 3, "beta1=0.9 beta2=0.95 weight_decay=1.5", decay=False),
    Method("adam_mini", ADAM, 3, "beta2=0.95"),
    Method("muon", (1e-2, 2e-2, 4e-2), 3, "optim.aux.lr_ratio=0.3"),
    Method("adamw8bit", ADAM, 1, "beta2=0.95"),
    Method("lion8bit", LION, None, "beta1=0.9 beta2=0.95 weight_decay=1.5", decay=False),
    Method("sgd8bit", SGD, None, "momentum=0.9", decay=False),
    Method("adamw4bit", ADAM, 3, "beta2=0.95"),
    Method("coat_adamw", ADAM, 1, "beta2=0.95"),
    Method("galore", LOW_RANK, 5, "rank=32"),
    Method("galore8bit", LOW_RANK, None, "rank=32"),
    Method("fira", LOW_RANK, 3, "rank=32"),
    Method("apollo", LOW_RANK, 3, "rank=32"),
    Method("apollo_mini", LOW_RANK, 5),
    Method("frugal", ADAM, 3, "density=0.25"),
    Method("microadam", (3e-4, 1e-3, 3e-3), 5, "density=0.01"),
    Method("microadam_10", (3e-4, 1e-3, 3e-3), None, "density=0.1", "microadam"),
    Method("adamw_bf16_sr", ADAM, 1, "beta2=0.95 train.dtype=bf16 train.weights=stochastic", "adamw"),
    Method("adamw_bf16_kahan", ADAM, 1, "beta2=0.95 train.dtype=bf16 train.weights=kahan", "adamw"),
    Method("adamw_int8_sr", ADAM, None, "beta2=0.95 train.weights=int8", "adamw"),
    Method("qgalore", LOW_RANK, 5, "rank=32"),
    Method("natural_galore", LOW_RANK, None, "rank=32"),
    Method("badam", TURNS, None, "ends=always"),
    Method("lisa", TURNS),
    Method("mfac_sparse", (3e-4, 1e-3, 3e-3)),
    Method("ggt_lowrank", WIDE),
    Method("sgd_sai", (2e-2, 3e-2, 4e-2), 10, "weight_decay=0", decay=False),
    Method("soap", ADAM, 0),
)
# nanoGPT's own rate where the method is AdamW with other states; betas as there.
MACBOOK_METHODS = (
    Method("adamw", (1e-3,), None, "beta2=0.99"),
    Method("adamw8bit", (1e-3,), None, "beta2=0.99"),
    Method("coat_adamw", (1e-3,), None, "beta2=0.99"),
    Method("microadam", (1e-3,), None, "density=0.01"),
    Method("apollo", (1.4e-2,), None, "rank=32"),
    Method("galore8bit", (1.4e-2,), None, "rank=32"),
)


class Suite(NamedTuple):
    title: str
    methods: tuple
    settings: tuple
    note: str = ""


SMALL = Suite("byte model of 2 blocks, 128 channels, 4 heads; 16 sequences of 64 tokens a step", METHODS, (
    "--model.preset=tiny-gpt2", "--model.L=2", "--model.C=128", "--model.H=4", "--model.max_T=64", "--model.dropout=0",
    "--data.tokenizer=byte", "--train.batch_tokens=1024"))
MACBOOK = Suite("nanoGPT's character model for small machines: 4 blocks, 128 channels, 4 heads; 12 sequences of 64 "
                "tokens a step", MACBOOK_METHODS, (
    "--model.preset=tiny-gpt2", "--model.L=4", "--model.C=128", "--model.H=4", "--model.max_T=64", "--model.bias=false",
    "--model.dropout=0", "--data.tokenizer=chars", "--train.batch_tokens=768"),
    "Published for AdamW: 1.88, the best of several estimates over 20 random batches; here the whole validation split "
    "after the last step.")
# Validation after the last step only. A NaN ends the run: a method that skips steps is not one that learns.
COMMON = ("--data.valid=0.1", "--train.seq_len=64", "--train.schedule.kind=cosine",
          "--train.schedule.final_fraction=0.1", "--train.eval_every=0", "--train.on_nonfinite=stop", "--optim.clip=1",
          "--checkpoint.every=0", "--threads=1")
