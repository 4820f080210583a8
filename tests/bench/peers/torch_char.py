#!/usr/bin/env python3
"""The character model of tests/e2e/training_test.cpp (Macbook) in PyTorch, judged over the whole validation split.

usage: torch_char.py TEXT SEED [STEPS]      needs torch; STEPS defaults to 2000
Settings: nanoGPT, config/train_shakespeare_char.py with its README's changes for a CPU.
"""
import math
import sys

import torch
import torch.nn.functional as F
from torch import nn

L, H, C, T, B = 4, 4, 128, 64, 12


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.ln_1 = nn.LayerNorm(C, bias=False)
        self.ln_2 = nn.LayerNorm(C, bias=False)
        self.qkv = nn.Linear(C, 3 * C, bias=False)
        self.attention_out = nn.Linear(C, C, bias=False)
        self.up = nn.Linear(C, 4 * C, bias=False)
        self.down = nn.Linear(4 * C, C, bias=False)

    def forward(self, x):
        b, t, _ = x.shape
        q, k, v = (h.view(b, t, H, C // H).transpose(1, 2) for h in self.qkv(self.ln_1(x)).split(C, 2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attention_out(y.transpose(1, 2).reshape(b, t, C))
        return x + self.down(F.gelu(self.up(self.ln_2(x))))


class Model(nn.Module):
    def __init__(self, V):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(V, C), nn.Embedding(T, C)
        self.blocks = nn.ModuleList(Block() for _ in range(L))
        self.norm = nn.LayerNorm(C, bias=False)
        for m in self.modules():
            if isinstance(m, (nn.Linear, nn.Embedding)):
                nn.init.normal_(m.weight, 0, 0.02)
        for block in self.blocks:
            for m in (block.attention_out, block.down):
                nn.init.normal_(m.weight, 0, 0.02 / math.sqrt(2 * L))

    def forward(self, ids, targets):
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        logits = self.norm(x) @ self.tokens.weight.T
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def batch(data, starts):
    return (torch.stack([data[s : s + T] for s in starts]),
            torch.stack([data[s + 1 : s + T + 1] for s in starts]))


@torch.no_grad()
def whole_split_loss(model, data):
    starts = [i * T for i in range((len(data) - 1) // T)]
    total = 0.0
    for i in range(0, len(starts), 64):
        x, y = batch(data, starts[i : i + 64])
        total += model(x, y).item() * len(x)
    return total / len(starts)


def learning_rate(step, steps):
    if step < 100:
        return 1e-3 * (step + 1) / 101
    return 1e-4 + 0.5 * (1 + math.cos(math.pi * (step - 100) / max(1, steps - 100))) * 9e-4


def main():
    text, seed = open(sys.argv[1]).read(), int(sys.argv[2])
    steps = int(sys.argv[3]) if len(sys.argv) > 3 else 2000
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    index = {c: i for i, c in enumerate(sorted(set(text)))}
    data = torch.tensor([index[c] for c in text])
    cut = int(0.9 * len(data))
    train, valid = data[:cut], data[cut:]
    model = Model(len(index))
    groups = [{"params": [p for p in model.parameters() if p.dim() >= 2], "weight_decay": 0.1},
              {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99))
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        loss = model(*batch(train, torch.randint(len(train) - T, (B,)).tolist()))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    print(f"validation loss {whole_split_loss(model, valid):.4f} after {steps} steps, seed {seed}")


main()
