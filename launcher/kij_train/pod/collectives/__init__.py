"""Measure a collective of torch.distributed over message sizes; every rank runs this package.

    torchrun --nproc-per-node 2 -m kij_train.pod.collectives -b 1K -e 16M -f 4
    kij-train bench allreduce --nodes 2 -b 1K -e 16M -f 4

Flags, formulas, columns and JSON keys are those of nccl-tests, so that its figures compare and its
parsers work (https://github.com/NVIDIA/nccl-tests, doc/PERFORMANCE.md and src/util.cu):

    algbw = bytes / seconds / 1e9           busbw = algbw x factor(collective, ranks)

A time is the host's clock around n calls and one synchronisation, by rank; the mean over ranks
makes the bandwidths. What a rank computes is checked in a pass of its own, with fresh data
(#wrong). torch works on one buffer where the collective has one size (all_reduce, broadcast:
in-place) and on two otherwise (out-of-place); the other columns say N/A.

`kij-train bench` ships this folder alone, under another name: its files import nothing else of
ours, and each other relatively. torch is imported when it runs; without it, table and formulas can
be read.
"""
