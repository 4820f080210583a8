"""The model and the step of torch_gpt.py."""
import math

import torch
import torch.nn.functional as F
from torch import nn

ROWS = 256  # of logits alive at once
SHORT = 512  # tokens up to which bf16 attention is written out


def attention(q, k, v, plain):
    """Fused, but for short sequences in bf16, where the products of the fused backward are slow."""
    b, h, t, d = q.shape
    if plain or q.dtype != torch.bfloat16 or t > SHORT:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    q, k, v = (x.reshape(b * h, t, d) for x in (q, k, v))
    mask = torch.full((1, t, t), -math.inf, dtype=q.dtype).triu(1)
    scores = torch.baddbmm(mask, q, k.transpose(1, 2), alpha=d**-0.5)
    return (torch.softmax(scores, -1) @ v).view(b, h, t, d)


class Block(nn.Module):
    def __init__(self, C, H, plain):
        super().__init__()
        self.H, self.plain = H, plain
        self.ln_1, self.ln_2 = nn.LayerNorm(C), nn.LayerNorm(C)
        self.qkv = nn.Linear(C, 3 * C)
        self.attention_out = nn.Linear(C, C)
        self.up = nn.Linear(C, 4 * C)
        self.down = nn.Linear(4 * C, C)

    def forward(self, x):
        b, t, c = x.shape
        q, k, v = (h.view(b, t, self.H, c // self.H).transpose(1, 2) for h in self.qkv(self.ln_1(x)).split(c, 2))
        x = x + self.attention_out(attention(q, k, v, self.plain).transpose(1, 2).reshape(b, t, c))
        return x + self.down(F.gelu(self.up(self.ln_2(x)), approximate="tanh"))


def loss_and_gradient(logits, targets, tokens):
    """Logits (rows, V) -> their share of the mean loss over all tokens, and its gradient."""
    p = torch.log_softmax(logits.float(), 1)
    at = targets[:, None]
    loss = -p.gather(1, at).sum() / tokens
    p.exp_().scatter_add_(1, at, p.new_full((len(targets), 1), -1.0)).mul_(1 / tokens)
    return loss, p.to(logits.dtype)


class Head(torch.autograd.Function):
    """Projection and cross entropy by chunks of rows: the logits of all tokens never exist at once."""

    @staticmethod
    def forward(ctx, x, weight, targets):
        dx, dw, loss = torch.empty_like(x), torch.zeros_like(weight), x.new_zeros((), dtype=torch.float32)
        for i in range(0, len(x), ROWS):
            rows = slice(i, i + ROWS)
            part, gradient = loss_and_gradient(x[rows] @ weight.t(), targets[rows], len(x))
            loss += part
            torch.mm(gradient, weight, out=dx[rows])
            dw.addmm_(gradient.t(), x[rows])
        ctx.save_for_backward(dx, dw)
        return loss

    @staticmethod
    def backward(ctx, _):
        return *ctx.saved_tensors, None  # the loss is what backward() starts from: its gradient is 1


class Model(nn.Module):
    """plain: as users of PyTorch write it, with all logits at once and fused attention everywhere."""

    def __init__(self, L, C, H, V, positions, plain):
        super().__init__()
        self.plain = plain
        self.tokens, self.positions = nn.Embedding(V, C), nn.Embedding(positions, C)
        self.blocks = nn.ModuleList(Block(C, H, plain) for _ in range(L))
        self.norm = nn.LayerNorm(C)
        for m in self.modules():
            if isinstance(m, (nn.Linear, nn.Embedding)):
                nn.init.normal_(m.weight, 0, 0.02)
            if isinstance(m, nn.Linear):
                nn.init.zeros_(m.bias)
        for block in self.blocks:
            for m in (block.attention_out, block.down):
                nn.init.normal_(m.weight, 0, 0.02 / math.sqrt(2 * L))

    def forward(self, ids, targets):
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        if self.plain:
            return F.cross_entropy((self.norm(x) @ self.tokens.weight.t()).flatten(0, 1), targets.flatten())
        return Head.apply(self.norm(x).flatten(0, 1), self.tokens.weight, targets.flatten())


class Trainer:
    """forward, backward and update of one step. With bf16 the optimizer sees an f32 master copy, or, plain, the
    weights themselves, which autocast rounds."""

    def __init__(self, model, bf16):
        self.autocast = bf16 and model.plain
        bf16 = bf16 and not model.plain
        self.model = model.bfloat16() if bf16 else model
        self.weights = list(model.parameters())
        self.masters = [nn.Parameter(w.detach().float()) for w in self.weights] if bf16 else self.weights
        groups = [{"params": [p for p in self.masters if p.dim() >= 2], "weight_decay": 0.1},
                  {"params": [p for p in self.masters if p.dim() < 2], "weight_decay": 0.0}]
        self.adamw = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), fused=True)
        for p in self.masters if bf16 else ():
            p.grad = torch.empty_like(p)

    def loss(self, ids, targets):
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            return self.model(ids, targets)

    @torch.no_grad()
    def update(self):
        if self.masters is not self.weights:
            torch._foreach_copy_([p.grad for p in self.masters], [w.grad for w in self.weights])
        nn.utils.clip_grad_norm_(self.masters, 1.0, foreach=True)
        self.adamw.step()
        if self.masters is not self.weights:
            torch._foreach_copy_(self.weights, self.masters)
        for w in self.weights:
            w.grad = None
