#!/usr/bin/env python3
"""One training step of GPT-2 in PyTorch, tuned as far as we know how: what `strata bench step` is measured against.

usage: torch_gpt.py gpt2-124m --batch 4 --seq 256 --dtype f32 --steps 5 --json      needs torch
The step is that of models/gpt2.cpp: learned positions, tanh GELU, biases, tied head, AdamW with decay on matrices,
gradients clipped at a global norm of 1. bf16 trains bf16 weights with an f32 master copy and f32 moments.
What each setting brings: tests/bench/README.md.
"""
import argparse
import ctypes
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

SIZES = {"gpt2-124m": (12, 768, 12, 50257, 1024),  # L, C, H, V, positions
         "gpt2-char": (6, 384, 6, 65, 256),
         "tiny-gpt2": (4, 128, 4, 256, 256)}
MARK = "TORCH_GPT_TUNED"  # set in the process that runs with the environment below


def environment(threads):
    """Read once when a process starts, so the script starts itself again with it. What the user has set stays."""
    heap = str(16 << 30)  # freed blocks stay ours: no page faults after the first step
    return {"OMP_NUM_THREADS": str(threads),
            "MALLOC_MMAP_THRESHOLD_": heap,
            "MALLOC_TRIM_THRESHOLD_": heap,
            "MALLOC_TOP_PAD_": str(256 << 20),
            "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
            "TORCHINDUCTOR_COMPILE_THREADS": "1"}


def restart(args):
    wanted = environment(args.threads)
    os.execve(sys.executable, sys.orig_argv, {**wanted, **os.environ, MARK: "1"})


def processor():
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            return next((line.split(":")[1].strip() for line in file if line.startswith("vendor_id")), "")
    except OSError:
        return ""


def open_mkl():
    """MKL keeps its AVX-512 kernels for processors that name themselves Intel's and asks this function, which a
    library loaded before torch may answer. f32 products gain up to half on Zen 4; any C compiler will do."""
    if processor() in ("", "GenuineIntel"):
        return "not needed"
    with tempfile.TemporaryDirectory() as directory:
        source, library = os.path.join(directory, "mkl.c"), os.path.join(directory, "libmkl.so")
        with open(source, "w", encoding="ascii") as file:
            file.write("int mkl_serv_intel_cpu_true(void) { return 1; }\n")
        try:
            subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True, capture_output=True)
            ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
        except (OSError, subprocess.CalledProcessError) as error:
            return f"no: {error}"
    return "yes"


def positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return value


def arguments():
    parser = argparse.ArgumentParser(prog="torch_gpt", description="tokens/s of a GPT-2 training step in PyTorch")
    parser.add_argument("model", help=", ".join(SIZES))
    parser.add_argument("--batch", type=positive, required=True)
    parser.add_argument("--seq", type=positive, required=True)
    parser.add_argument("--dtype", choices=("f32", "bf16"), default="f32")
    parser.add_argument("--steps", type=positive, default=5, help="timed steps, after two that are not (5)")
    parser.add_argument("--threads", type=positive, default=len(os.sched_getaffinity(0)), help="all cores we may use")
    parser.add_argument("--compile", choices=("auto", "yes", "no"), default="auto",
                        help="torch.compile of the blocks; auto: with f32, where it works (auto)")
    parser.add_argument("--plain", action="store_true",
                        help="the model as users write it: modules, all logits at once, autocast; not compiled")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
    args = parser.parse_args()
    if args.model not in SIZES:
        parser.error(f"no model '{args.model}'; models: {', '.join(SIZES)}")
    if args.seq > SIZES[args.model][4]:
        parser.error(f"--seq must be at most {SIZES[args.model][4]}, the positions of {args.model}, got {args.seq}")
    return args


def compiled(model, ids, targets, how):
    """The blocks by torch.compile, one compilation for all. Says what became of it."""
    if how == "no":
        return "no"
    try:
        for block in model.blocks:
            block.compile(dynamic=False)
        model(ids, targets).backward()
    except Exception as error:  # a missing C++ compiler, a damaged installation: inductor raises what it likes
        if how == "yes":
            sys.exit(f"torch_gpt: torch.compile fails: {error}")
        for block in model.blocks:
            block._compiled_call_impl = None
        return f"no: {str(error).splitlines()[0]}"
    finally:
        model.zero_grad()
    return "yes"


def timed_step(trainer, ids, targets):
    """Seconds of forward, backward and update, and the loss."""
    marks = [time.perf_counter()]
    loss = trainer.loss(ids, targets)
    marks.append(time.perf_counter())
    loss.backward()
    marks.append(time.perf_counter())
    trainer.update()
    marks.append(time.perf_counter())
    return [b - a for a, b in zip(marks, marks[1:])], loss.item()


def measure(args):
    mkl = open_mkl()
    try:
        import torch
    except ImportError as error:
        sys.exit(f"torch_gpt: needs torch (pip install torch); {sys.executable} has none: {error}")
    sys.dont_write_bytecode = True  # a checkout stays clean
    from torch_gpt_model import Model, Trainer
    torch.manual_seed(1)
    torch.set_num_threads(args.threads)
    L, C, H, V, positions = SIZES[args.model]
    tokens = torch.randint(V, (args.batch, args.seq + 1))
    ids, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    bf16 = args.dtype == "bf16"
    trainer = Trainer(Model(L, C, H, V, positions, args.plain), bf16)
    leave = args.compile == "auto" and (bf16 or args.plain)
    compiling = compiled(trainer.model, ids, targets, "no" if leave else args.compile)
    first_loss = timed_step(trainer, ids, targets)[1]
    timed_step(trainer, ids, targets)
    parts, losses = zip(*(timed_step(trainer, ids, targets) for _ in range(args.steps)))
    seconds = [sum(p) for p in parts]
    median = statistics.median(seconds)
    forward, backward, update = (1e3 * statistics.median(p) for p in zip(*parts))
    return {"model": args.model, "dtype": args.dtype, "batch": args.batch, "seq": args.seq, "steps": args.steps,
            "tokens_per_second": args.batch * args.seq / median,
            "step_seconds": {"median": median, "min": min(seconds), "max": max(seconds)},
            "forward_ms": forward, "backward_ms": backward, "optimizer_ms": update,
            "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "first_loss": first_loss, "last_loss": losses[-1],
            "torch": torch.__version__, "threads": args.threads, "compile": compiling, "plain": args.plain, "mkl_avx512": mkl,
            "environment": {name: os.environ.get(name) for name in environment(args.threads)}}


def main():
    args = arguments()
    if MARK not in os.environ:
        restart(args)
    report = measure(args)
    if args.json:
        print(json.dumps(report))
    else:
        print(f"{args.model} B{args.batch} T{args.seq} {args.dtype}: {report['tokens_per_second']:.1f} tokens/s, "
              f"{report['peak_rss_bytes'] / 2**20:.0f} MiB peak resident, compile {report['compile']}")


if __name__ == "__main__":
    main()
