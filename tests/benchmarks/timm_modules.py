"""Whether any timm name trains: one small model of every module of timm, an update each.

    python -m tests.benchmarks.timm_modules [--largest 60] [--only vgg] [--json]

Each is made for 32x32 images, counted, trained for one update of 16 samples and measured by a noise
pass. It either works or is refused in one line that says which size to ask for; anything else is an
error of this library. Exits 1 where there is one.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import timm
import torch

from stability_probe.config import RunConfig
from stability_probe.datasets import Dataset, load_dataset
from stability_probe.errors import ProbeError
from stability_probe.models import model_size, num_params
from stability_probe.noise_pass import measure_noise_scale
from stability_probe.state import make_state
from stability_probe.step import load_batch, train_step

SMALL = ("test_", "atto", "nano", "femto", "pico", "xxs", "050", "tiny", "_t", "xs", "small", "_s")
"""What names of small models have in them, the smallest first."""


def smallest(names: list[str]) -> str:
    """The model that looks smallest by its name; the shorter name of two alike."""
    rank = {n: next((i for i, w in enumerate(SMALL) if w in n), len(SMALL)) for n in names}
    return min(names, key=lambda n: (rank[n], len(n), n))


def try_model(name: str, data: Dataset, largest: int) -> str:
    """works, too large, or the words that refuse it; raises what this library did not foresee."""
    config = RunConfig(
        model=name,
        data="digits",
        batch_size=16,
        epochs=4,
        window_epochs=2,
        threads=1,
        device="cpu",
        channels_last="off",
    )
    try:
        state = make_state(config, data)
        if num_params(state.model) > largest:
            return "too large"
        model_size(state.model, img_size=data.train_images.shape[-1])
        images, labels = load_batch(data, torch.arange(config.batch_size), state)
        sums = torch.zeros(2)
        loss = train_step(state, data, images, labels, config.precision, sums)
        noise = measure_noise_scale(state, data, config, share=0.1)
    except ProbeError as error:
        return str(error)
    if not bool(loss.isfinite()) or not bool(sums.isfinite().all()) or noise.num_samples == 0:
        raise ArithmeticError(f"loss {loss.item()}, sums {sums.tolist()}")
    return "works"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--largest", type=float, default=60, help="million parameters")
    parser.add_argument("--only", help="one module of timm")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    data, told, failed = load_dataset("digits", limit=64), {}, {}
    for module in sorted(timm.list_modules()):
        names = timm.list_models(module=module)
        if not names or args.only not in (None, module):
            continue
        name = smallest(names)
        try:
            told[name] = try_model(name, data, round(1e6 * args.largest))
        except Exception as error:  # whatever it is, it is what is looked for
            failed[name] = f"{type(error).__name__}: {error}"
        print(f"{module:26}{name:34}{failed.get(name, told.get(name))}", file=sys.stderr)
    counts: dict[str, Any] = {
        "works": sum(words == "works" for words in told.values()),
        "too_large": sum(words == "too large" for words in told.values()),
        "refused": {n: w for n, w in told.items() if w not in ("works", "too large")},
        "failed": failed,
    }
    if args.json:
        print(json.dumps(counts, indent=2))
    else:
        print(
            f"{len(told) + len(failed)} modules: {counts['works']} train, "
            f"{len(counts['refused'])} are refused in a line, {counts['too_large']} are too large "
            f"to be tried, {len(failed)} fail"
        )
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
