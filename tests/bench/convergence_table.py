"""The table of tests/bench/convergence: Markdown, with where its numbers come from below."""
import shlex

from convergence_methods import DECAY

HEAD = ("method", "settings", "best lr of its grid", "losses", "mean", "against adamw", "limit", "verdict",
        "state B/param", "weights B/param")


def table(bench):
    """Rows of the methods that have results."""
    base = bench.mean(next(method for method in bench.suite.methods if method.name == "adamw"))
    methods = [method for method in bench.methods if any(bench.result(run) for run in bench.grid(method))]
    rows = [HEAD, ("---",) * len(HEAD), *(cells(bench, method, base) for method in methods)]
    return "\n".join([*("| " + " | ".join(row) + " |" for row in rows), "",
                      *("- " + note for note in notes(bench, methods))])


def verdict(bench, method, base):
    if bench.missing(method):
        return "incomplete"
    mean = bench.mean(method)
    if mean is None:
        return "failed" if method.limit is None else "MISSED: failed"
    if method.limit is None:
        return "reported"
    if base is None:
        return "waits for adamw"
    return "met" if mean <= base * (1 + method.limit / 100) else "MISSED"


def loss_text(result):
    if result is None:
        return "-"
    return f"{result['loss']:.4f}" if "loss" in result else "failed"


def bytes_text(results, field):
    known = next((result for result in results if field in result), None)
    return f"{known[field] / known['parameters']:.2f}" if known else "-"


def cells(bench, method, base):
    mean, best = bench.mean(method), bench.best(method)
    settings = " ".join(word.removeprefix("--optim.").removeprefix("--") for word in method.words()[1:])
    results = [bench.result(run) for run in bench.seeds(method)]
    there = [result for result in results if result]
    return (method.name, settings or "-",
            f"{best.lr:g} of {', '.join(f'{lr:g}' for lr in method.lrs)}" if best else "none",
            " ".join(loss_text(result) for result in results) or "-",
            f"{mean:.4f}" if mean is not None else "-",
            f"{100 * (mean / base - 1):+.2f} %" if mean is not None and base else "-",
            f"{method.limit:+g} %" if method.limit is not None else "-",
            verdict(bench, method, base), bytes_text(there, "state_bytes"), bytes_text(there, "weights_bytes"))


def notes(bench, methods):
    """What a reader of the rows has to know."""
    args = bench.args
    yield (f"{bench.suite.title}; {args.steps} steps, warm-up {bench.warmup}, cosine to a tenth, clip 1. Loss: nats "
           f"per token over the last tenth of {args.data.name} after the last step, of seeds 1 to {args.seeds}; seed 1 "
           "chooses the learning rate.")
    undecayed = [method.name for method in methods if not method.decay and "weight_decay" not in method.settings]
    yield f"Weight decay {DECAY.split('=')[1]}" + (f", none for {', '.join(undecayed)}." if undecayed else ".")
    if bench.suite.note:
        yield bench.suite.note
    edge = [method.name for method in methods if len(method.lrs) > 1 and bench.best(method)
            and bench.best(method).lr in (method.lrs[0], method.lrs[-1])]
    if edge:
        yield f"The best learning rate is at an end of its grid: {'; '.join(edge)}."
    runs = {run for method in methods for run in (*bench.grid(method), *bench.seeds(method)) if bench.result(run)}
    for run in sorted(runs, key=str):
        if "failed" in bench.result(run):
            yield f"Failed: {run}: {bench.result(run)['failed']}."
    absent = [method.name for method in bench.methods if method not in methods]
    if absent:
        yield f"No results: {'; '.join(absent)}."
    yield origin(bench, [bench.result(run) for run in runs])


def origin(bench, results):
    args = bench.args
    words = ["tests/bench/convergence", *(["--macbook"] if args.macbook else []),
             *(["--only", args.only] if args.only else []),
             *(["--steps", str(args.steps)] if args.steps != 2000 else []),
             *(["--seeds", str(args.seeds)] if args.seeds != 3 else [])]
    commit, date, machine = (", ".join(sorted({result[field] for result in results})) or "none"
                             for field in ("commit", "date", "machine"))
    minutes = sum(result["seconds"] for result in results) / 60
    return (f"`{shlex.join(words)}`; commit {commit}, sources {bench.sources}; {date}; {machine}; {len(results)} runs, "
            f"{minutes:.1f} minutes of one thread.")
