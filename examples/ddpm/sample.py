"""Draw 16 images with a trained model, by algorithm 2 of the paper: python sample.py RUN"""

import sys
from pathlib import Path

import torch
import yaml
from ddpm import denoise, signal
from torchvision.utils import save_image

import lamella

run = sys.argv[1]
network, steps = lamella.load(run).network, yaml.safe_load(Path(run, "config.yaml").read_text())["task"]["steps"]
left = torch.cat([torch.ones(1), signal(steps)])
torch.manual_seed(0)
images = torch.randn(16, 1, 28, 28)
with torch.no_grad():
    for number in range(steps, 0, -1):
        kept = left[number] / left[number - 1]
        noise = denoise(network, images, torch.full((16,), number - 1), steps)
        images = (images - (1 - kept) / (1 - left[number]).sqrt() * noise) / kept.sqrt()
        images += (1 - kept).sqrt() * torch.randn_like(images) * (number > 1)  # the last step adds none
save_image(images / 2 + 0.5, "samples.png", nrow=4)
