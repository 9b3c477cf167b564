"""What the checks run on, or why they cannot."""

import platform
import sys
import warnings

from check_runner import Skip


def describe(session):
    advice = (
        "./dev build installs it; elsewhere the folder it lies in belongs in PYTHONPATH, and "
        "PYTHON=... tells a bundle's run.sh which Python has torch"
    )
    package = "torch"
    try:
        with warnings.catch_warnings(record=True) as told:  # by torch, of a driver that is too old
            warnings.simplefilter("always")
            import torch
            from torch.distributed import is_nccl_available

            package = "ptyle"
            import ptyle

            sees_gpu = torch.cuda.is_available()
    except ImportError as error:
        raise Skip(
            f"{package} cannot be imported by {sys.executable}: {error} ({advice})"
        ) from None
    if session.cuda:
        if not sees_gpu:
            why = [str(warning.message) for warning in told if "CUDA" in str(warning.message)]
            why = why or ["is there a driver?"]
            raise Skip(f"no GPU is here: torch.cuda.is_available() is false ({why[0]})")
        try:
            ptyle.load_cuda()
        except RuntimeError as error:
            raise Skip(str(error)) from None
    facts = dict(python=platform.python_version(), torch=torch.__version__, ptyle=ptyle.__version__)
    if session.cuda:
        device = torch.cuda.get_device_properties(0)
        facts |= dict(
            gpu=device.name,
            gpus=torch.cuda.device_count(),
            capability=f"{device.major}.{device.minor}",
            memory_GiB=round(device.total_memory / 2**30, 1),
            cuda=torch.version.cuda,
            nccl=".".join(map(str, torch.cuda.nccl.version())) if is_nccl_available() else "none",
        )
    else:
        facts |= dict(processor=platform.machine(), threads=torch.get_num_threads())
    session.say(facts=facts)
    return ", ".join(f"{name} {value}" for name, value in facts.items())
