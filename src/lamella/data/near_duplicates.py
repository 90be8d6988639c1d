"""Find images that look alike: copies that were saved again, scaled or brightened."""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

DISTANCE = 3  # bits in which the hashes of two copies may differ
BAND = 16  # bits that are looked up at a time; of four bands, three changed bits leave one as it was
NEIGHBOURS = 1000  # images with an equal band that each image is compared with
CORRELATION = 0.98  # of the grey values of two copies
SIDE = 16  # of the small grey images that are correlated


def grey_images(images: Tensor, height: int, width: int) -> Tensor:
    """Return images (N, channels, …) as small grey ones, float32 (N, height, width)."""
    grey = images.float().mean(1, keepdim=True)
    return interpolate(grey, (height, width), mode="bilinear", antialias=True)[:, 0]


def difference_hashes(images: Tensor) -> np.ndarray:
    """Return a hash of 64 bits of each image, uint64 (N,), of which similar images share most bits.

    Each bit says whether one of 9×8 grey pixels is darker than the next one to the right, which is the dHash of Neal
    Krawetz, "Kind of Like That", Hacker Factor Blog 529 (2013). images: uint8 (N, channels, height, width).
    """
    small = grey_images(images, 8, 9)
    bits = (small[:, :, 1:] > small[:, :, :-1]).flatten(1).numpy()
    hashes: np.ndarray = np.packbits(bits, axis=1).view(np.uint64)[:, 0]
    return hashes


def standardized(images: Tensor) -> np.ndarray:
    """Return small grey images of mean 0 and norm 1, float16 (N, SIDE²), whose products are their correlations."""
    small = grey_images(images, SIDE, SIDE).flatten(1)
    small = small - small.mean(1, keepdim=True)
    array: np.ndarray = (small / small.norm(dim=1, keepdim=True).clamp(min=1e-6)).to(torch.float16).numpy()
    return array


def close_pairs(hashes: np.ndarray) -> np.ndarray:
    """Return the pairs of hashes that differ in at most DISTANCE bits, int64 (pairs, 2), the first index below.

    Two such hashes have an equal band, so that only hashes with one are compared: multi-index hashing (Norouzi, Punjani
    and Fleet, "Fast search in Hamming space with multi-index hashing", CVPR 2012). Of a band that more than NEIGHBOURS
    hashes share, not all pairs are compared. hashes: uint64 (N,).
    """
    found = [np.empty((0, 2), np.int64)]
    for shift in range(0, 64, BAND):
        keys = (hashes >> np.uint64(shift)) & np.uint64(2**BAND - 1)
        order = np.argsort(keys, kind="stable")
        keys, values = keys[order], hashes[order]
        here = np.arange(len(hashes))
        for step in range(1, NEIGHBOURS):
            here = here[here < len(hashes) - step]
            here = here[keys[here] == keys[here + step]]
            if not len(here):
                break
            near = here[np.bitwise_count(values[here] ^ values[here + step]) <= DISTANCE]
            found.append(np.stack([order[near], order[near + step]], 1))
    pairs: np.ndarray = np.unique(np.sort(np.concatenate(found), axis=1), axis=0)
    return pairs


def similar_pairs(hashes: np.ndarray, small: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs of images that look alike, int64 (pairs, 2), the most similar first, and their correlations.

    hashes: of `difference_hashes` (N,). small: of `standardized` (N, SIDE²).
    """
    pairs = close_pairs(hashes)
    likeness = [
        np.einsum("ij,ij->i", *(small[part[:, side]].astype(np.float32) for side in (0, 1)))
        for part in np.array_split(pairs, max(1, len(pairs) // 10_000))
    ]
    correlation = np.concatenate(likeness)
    order = np.argsort(-correlation, kind="stable")
    order = order[correlation[order] >= CORRELATION]
    return pairs[order], correlation[order]
