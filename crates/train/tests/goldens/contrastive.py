"""Writes contrastive.json: CLIP's loss and its gradients for fixed embeddings, as in transformers' `clip_loss`
(torch 2.15.0).

    python contrastive.py > contrastive.json
"""

import json

import torch
from torch.nn.functional import cross_entropy, normalize

torch.manual_seed(0)


def numbers(t):
    return t.detach().flatten().tolist()


def case(rows, width, scale):
    images = (3 * torch.randn(rows, width)).requires_grad_()
    texts = (images.detach() + 2 * torch.randn(rows, width)).requires_grad_()
    scale = torch.tensor([scale], requires_grad=True)
    scores = scale.exp() * normalize(images) @ normalize(texts).T
    right = torch.arange(rows)
    loss = (cross_entropy(scores, right) + cross_entropy(scores.T, right)) / 2
    loss.backward()
    return {
        "rows": rows,
        "width": width,
        "images": numbers(images),
        "texts": numbers(texts),
        "scale": numbers(scale),
        "loss": loss.item(),
        "images_grad": numbers(images.grad),
        "texts_grad": numbers(texts.grad),
        "scale_grad": numbers(scale.grad),
    }


cases = [case(1, 3, 1.0), case(5, 4, 2.659), case(7, 6, 4.605)]
print(json.dumps({"torch": torch.__version__, "cases": cases}))
