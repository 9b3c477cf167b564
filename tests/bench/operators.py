"""diffraction_loss with its gradients against the same physics in plain torch and against the bare
transforms, on one thread: `./dev bench operators`.

Prints microseconds a position and their ratios, and JSON with --json FILE. "plain torch" is the
shortest eager program for whole-pixel positions: gather, multiply, fft2, backward. Then what the
object's illumination in the same sweep (`diffraction_loss_accumulate_`) adds.
"""

import argparse
import json
import statistics
import time

import ptyle
import torch

CASES = [(64, 4, 1, 64), (128, 6, 1, 32), (64, 1, 1, 64), (256, 2, 1, 8), (64, 4, 4, 16)]


def seconds(function, repeats):
    """Median time of a call, after one that is not counted."""
    function()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        function()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def measure(window, slices, modes, n, repeats):
    torch.manual_seed(0)
    size = window + 100
    obj = torch.polar(torch.ones(slices, size, size), 0.1 * torch.randn(slices, size, size))
    probe = torch.randn(modes, window, window, dtype=torch.complex64)
    positions = torch.randint(0, 100, (n, 2)).double()
    propagator = torch.polar(torch.ones(window, window), torch.randn(window, window))
    patterns = torch.poisson(10 * torch.rand(n, window, window))
    unknowns = (obj.requires_grad_(), probe.requires_grad_())
    steps = torch.arange(window)
    rows = (positions[:, :1].long() + steps)[:, :, None]
    columns = (positions[:, 1:].long() + steps)[:, None, :]

    def fused():
        loss, _ = ptyle.diffraction_loss(obj, probe, positions, propagator, patterns)
        return loss, *torch.autograd.grad(loss, unknowns)

    def plain():
        wave = probe[None]
        for s in range(slices):
            if s > 0:
                wave = torch.fft.ifft2(propagator * torch.fft.fft2(wave))
            wave = wave * obj[s][rows, columns][:, None]
        intensity = torch.fft.fft2(wave, norm="ortho").abs().square().sum(1)
        loss = (intensity.sqrt() - patterns.sqrt()).square().sum()
        return loss, *torch.autograd.grad(loss, unknowns)

    waves = torch.randn(n * modes, window, window, dtype=torch.complex64)

    def transforms():
        for _ in range(4 * slices - 2):
            torch.fft.fft2(waves)

    def sweep(**more):
        with torch.no_grad():
            ptyle.diffraction_loss_accumulate_(
                obj,
                probe,
                positions,
                propagator,
                patterns,
                grad_object=sums[0],
                grad_probe=sums[1],
                losses=torch.zeros(n, dtype=torch.double),
                **more,
            )

    sums = [torch.zeros_like(t.detach()) for t in unknowns]
    lit = torch.zeros(slices, size, size)
    alone, with_illumination = (
        min(seconds(f, 3) for _ in range(repeats)) for f in (sweep, lambda: sweep(illumination=lit))
    )
    for ours, theirs in zip(fused(), plain(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * theirs.abs().max().item())
    times = {name: 0.0 for name in ("fused", "plain", "transforms")}
    for name, function in (("fused", fused), ("plain", plain), ("transforms", transforms)):
        times[name] = 1e6 * seconds(function, repeats) / n
    times["illumination"] = with_illumination / alone - 1
    return dict(window=window, slices=slices, modes=modes, positions=n, **times)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", help="also write the table as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("microseconds a position, one thread, complex64: loss, object and probe gradient")
    print(
        "window slices modes | diffraction_loss | plain torch, times | transforms alone, fraction"
        " | illumination"
    )
    rows = []
    for case in CASES:
        row = measure(*case, arguments.repeats)
        rows.append(row)
        print(
            f"{row['window']:6} {row['slices']:6} {row['modes']:5} | {row['fused']:16.0f} | "
            f"{row['plain']:11.0f} {row['plain'] / row['fused']:6.2f} | "
            f"{row['transforms']:16.0f} {row['transforms'] / row['fused']:9.2f} | "
            f"{100 * row['illumination']:+10.1f} %"
        )
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()
