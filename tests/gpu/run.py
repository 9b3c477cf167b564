"""Every check that needs a GPU, in one command of a few minutes, and times.

    python tests/gpu/run.py [--minutes 8] [--quick] [--only WORDS] [--json FILE] [--program PATH]

Needs torch, ptyle and numpy where Python finds them; without h5py less of the program's results is
compared. The checks come in order of worth and end with the time, each is a process of its own, and
one that fails, crashes or hangs stops no other. Prints one table, also where it is interrupted; the
JSON file holds the same at every moment. The exit code is 0 where nothing failed, 1 where something
did or there was time for nothing, and 77 where there is no GPU or no package. With --device cpu the
checks run without a GPU: operators against plain torch (`ptyle.reference`), gloo instead of NCCL,
times of small sizes.
"""

import sys

from check_runner import Check, main

CHECKS = [
    # what operators compute
    Check("operators in float32", "operator_checks.operators_single"),
    Check("operators in float64", "operator_checks.operators_double"),
    Check("extract_patches and add_patches", "operator_checks.patches"),
    Check("halos and tiles, one rank", "rank_checks.one_rank"),
    Check("the same bits twice", "operator_checks.same_bits"),
    Check("several chunks of positions", "operator_checks.chunks"),
    Check("two streams of two threads", "operator_checks.streams", gpu="streams"),
    Check(
        "waves recomputed where memory is short",
        "operator_checks.short_of_memory",
        gpu="its memory",
    ),
    # the program
    Check("the program", "program_checks.same_as_the_cpu"),
    Check("the program, the same bits twice", "program_checks.same_bits"),
    # ranks
    Check("two ranks, Gloo", "rank_checks.two_ranks_gloo"),
    Check("one rank, NCCL", "rank_checks.one_rank_nccl", gpu="NCCL"),
    Check("two ranks, NCCL, two GPUs", "rank_checks.two_ranks_nccl", gpu="NCCL", gpus=2),
    Check("two ranks, NCCL, one GPU", "rank_checks.two_ranks_nccl_one_gpu", gpu="NCCL"),
    Check("the program, two ranks", "program_checks.two_ranks", gpus=2),
    Check("the program, two ranks, one GPU", "program_checks.two_ranks_one_gpu", gpu="NCCL"),
    # torch's own checks
    Check("first and second derivatives by differences", "operator_checks.derivatives"),
    Check("torch.library.opcheck", "operator_checks.opcheck"),
    # every access of every kernel
    Check(
        "compute-sanitizer memcheck",
        "sanitizer_checks.memcheck",
        gpu="its kernels",
        endless=True,
    ),
    Check(
        "compute-sanitizer racecheck",
        "sanitizer_checks.racecheck",
        gpu="its kernels",
        endless=True,
    ),
    # times
    Check("loss and gradients", "operator_times.loss_and_gradients", share=0.25, endless=True),
    Check("iterations of the program", "program_checks.iterations", endless=True),
    Check("plain torch", "operator_times.plain_torch", share=0.25, endless=True),
    Check("shares of kernels", "operator_times.shares_of_kernels", endless=True),
    Check("small windows", "operator_times.small_windows", endless=True),
]
MACHINE = Check("machine", "machine.describe")

if __name__ == "__main__":
    sys.exit(main(CHECKS, MACHINE))
