"""Writes adamw.json: five steps of torch.optim.AdamW on fixed numbers (torch 2.15.0).

    python adamw.py > adamw.json
"""

import json

import torch

torch.manual_seed(0)
weight = torch.nn.Parameter(torch.randn(3, 4))
bias = torch.nn.Parameter(torch.randn(4))
groups = [{"params": [weight], "weight_decay": 0.05}, {"params": [bias], "weight_decay": 0.0}]
optimizer = torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.95), eps=1e-8)


def numbers(t):
    return t.detach().flatten().tolist()


out = {"torch": torch.__version__, "weight": numbers(weight), "bias": numbers(bias), "steps": []}
for step in range(5):
    weight.grad = torch.randn(3, 4) * 10 ** (step - 2)
    bias.grad = torch.randn(4) * 10 ** (step - 2)
    lr = 0.01 / (step + 1)
    for group in optimizer.param_groups:
        group["lr"] = lr
    grads = {"lr": lr, "weight_grad": numbers(weight.grad), "bias_grad": numbers(bias.grad)}
    norm = torch.linalg.vector_norm(torch.cat([weight.grad.flatten(), bias.grad.flatten()]).double())
    optimizer.step()
    out["steps"].append(grads | {"norm": norm.item(), "weight": numbers(weight), "bias": numbers(bias)})
print(json.dumps(out))
