"""What compact logits cost in KL, bytes and time, beside the largest logits in the same bytes.

    python tests/benchmarks/compact_logits.py LOGITS.npy          # (N, K) of a classifier
    python tests/benchmarks/compact_logits.py --classes 10000 --features 1024   # drawn
    python tests/benchmarks/compact_logits.py --classes 1000 --features 0       # independent ones

Two thirds of the rows fit the basis, the others are measured. One thread; times are of the process.
"""

import argparse
import sys
import time

import numpy as np
import torch
from torch import Tensor

from kd_ray.transfer_set.divergence import TEMPERATURES, divergence
from kd_ray.transfer_set.fit_basis import SHARES, fit_basis

ROWS = 4500


def drawn(classes: int, features: int, spread: float) -> Tensor:
    """Logits `(ROWS, K)` of drawn features and one drawn layer; else independent ones."""
    draw = torch.Generator().manual_seed(0)
    if not features:
        return spread * torch.randn(ROWS, classes, generator=draw)
    layer = torch.randn(features, classes, generator=draw) * spread / features**0.5
    return torch.randn(ROWS, features, generator=draw) @ layer


def largest_alone(logits: Tensor, row_bytes: int) -> Tensor:
    """The largest logits are kept, 4 bytes each; all others share what is left at T = 1."""
    top, place = logits.topk(row_bytes // 4, dim=1)
    whole, kept = (x.double().logsumexp(dim=1, keepdim=True) for x in (logits, top))
    left = whole + torch.log1p(-(kept - whole).exp().clamp(max=1 - 1e-15))
    rest = left - np.log(logits.shape[1] - top.shape[1])
    return rest.float().expand_as(logits).scatter(1, place, top.half().float())


def shown(costs: Tensor) -> str:
    return "  ".join(f"T = {t:g}: {c:.1e}" for t, c in zip(TEMPERATURES, costs, strict=True))


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("logits", nargs="?")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--spread", type=float, default=3.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.logits:
        logits = torch.from_numpy(np.load(options.logits)).float()
    else:
        logits = drawn(options.classes, options.features, options.spread)
    rows, classes = logits.shape
    sample, rest = logits[: 2 * rows // 3, None], logits[2 * rows // 3 :, None]
    say(f"{rows:,} rows of {classes:,} classes, deviation {float(logits.std()):.2f}")
    for dtype in SHARES:
        start = time.process_time()
        basis = fit_basis(sample, dtype)
        fitted = time.process_time()
        codes, costs = basis.encode(rest)
        encoded = time.process_time()
        basis.decode(codes)
        decoded = time.process_time()
        alone = divergence(rest[:, 0], largest_alone(rest[:, 0], basis.row_bytes))
        share = basis.row_bytes / (2 * classes)
        say(f"{dtype}: {basis.row_bytes:,} bytes, {share:.3f} of float16's")
        say(f"  mean KL     {shown(costs.flatten(0, 1).mean(dim=0))}")
        say(f"  largest KL  {shown(costs.flatten(0, 1).amax(dim=0))}")
        say(f"  top-k mean  {shown(alone.mean(dim=0))}")
        rates = (len(rest) / seconds for seconds in (encoded - fitted, decoded - encoded))
        say(
            "  fitted in {:.1f} s, {:,.0f} rows/s coded, {:,.0f} rebuilt".format(
                fitted - start, *rates
            )
        )


if __name__ == "__main__":
    main()
