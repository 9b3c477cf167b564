"""What ptyle costs whoever uses it again and again: time to import, time of every operator's first
call, size on disk: `./dev bench package`.

Every time is the median of fresh processes; --json FILE also writes the numbers.
"""

import argparse
import importlib.metadata
import json
import statistics
import subprocess
import sys

import ptyle

IMPORT_LIMIT_MS = 50
SIZE_LIMIT_MB = 20

IMPORT = """
import time
begin = time.perf_counter()
import torch
middle = time.perf_counter()
import ptyle
print(1e3 * (middle - begin), 1e3 * (time.perf_counter() - middle))
"""

# One thread: waiting for others says more about the machine. torch's first transform is not ours.
CALL = """
import time
import torch, ptyle
torch.set_num_threads(1)
object = torch.rand(2, 100, 100, requires_grad=True)
probe = torch.randn(2, 64, 64, dtype=torch.complex64)
positions = 36 * torch.rand(8, 2, dtype=torch.double)
propagator = torch.ones(64, 64, dtype=torch.complex64)
patterns = torch.rand(8, 64, 64)
patches = torch.rand(8, 2, 64, 64)
torch.fft.ifft2(torch.fft.fft2(torch.randn(8, 64, 64, dtype=torch.complex64)))
times = []
for _ in range(6):
    begin = time.perf_counter()
    {call}
    times.append(1e3 * (time.perf_counter() - begin))
print(times[0], min(times[1:]))
"""
MODEL = "object, probe, positions, propagator"
CALLS = {
    "exit_waves": f"ptyle.exit_waves({MODEL})",
    "diffraction": f"ptyle.diffraction({MODEL})",
    "diffraction_loss": f"ptyle.diffraction_loss({MODEL}, patterns)",
    "diffraction_loss, backward": f"ptyle.diffraction_loss({MODEL}, patterns)[0].backward()",
    "illumination": "ptyle.illumination(probe, positions, (100, 100))",
    "extract_patches": "ptyle.extract_patches(object, positions.floor(), (64, 64))",
    "add_patches": "ptyle.add_patches(patches, positions.floor(), (100, 100))",
}


def medians(code, processes):
    """The code prints numbers: their medians over fresh processes."""
    rows = []
    for _ in range(processes):
        output = subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True
        ).stdout
        rows.append([float(word) for word in output.split()])
    return [statistics.median(column) for column in zip(*rows, strict=True)]


def installed_files():
    """Bytes of every installed file, without what Python compiled for itself."""
    files = importlib.metadata.files("ptyle")
    return {
        str(file): file.locate().stat().st_size
        for file in files
        if file.suffix != ".pyc" and file.locate().exists()
    }


def verdict(value, limit):
    return f"at most {limit}: {'yes' if value <= limit else 'NO'}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--json", help="also write the numbers as JSON")
    arguments = parser.parse_args()

    subprocess.run([sys.executable, "-c", IMPORT], check=True, stdout=subprocess.DEVNULL)
    torch_ms, ptyle_ms = medians(IMPORT, arguments.processes)
    print(f"import torch          {torch_ms:8.1f} ms")
    print(f"import ptyle after it {ptyle_ms:8.1f} ms  {verdict(ptyle_ms, IMPORT_LIMIT_MS)}")

    print("8 positions, window 64, 2 slices, 2 modes, one thread: first call, again in ms")
    calls = {}
    for name, call in CALLS.items():
        first, again = medians(CALL.format(call=call), arguments.processes)
        calls[name] = dict(first_ms=first, again_ms=again)
        print(f"{name:27} {first:8.2f} {again:8.2f}")

    files = installed_files()
    cuda = sum(size for name, size in files.items() if "libptyle_ops_cuda" in name)
    cpu = sum(files.values()) - cuda
    print(f"installed without torch, {len(files)} files")
    for name, size in sorted(files.items(), key=lambda item: -item[1])[:4]:
        print(f"  {size / 1e6:8.3f} MB  {name}")
    print(f"  {cpu / 1e6:8.3f} MB  all but the CUDA library  {verdict(cpu / 1e6, SIZE_LIMIT_MB)}")
    print(f"  {cuda / 1e6:8.3f} MB  the CUDA library")

    if arguments.json:
        report = dict(
            version=ptyle.__version__,
            processes=arguments.processes,
            import_torch_ms=torch_ms,
            import_ptyle_ms=ptyle_ms,
            calls=calls,
            files=len(files),
            cpu_bytes=cpu,
            cuda_bytes=cuda,
        )
        with open(arguments.json, "w") as file:
            json.dump(report, file, indent=2)


if __name__ == "__main__":
    main()
