#!/usr/bin/env python3
"""tests/bench/convergence with the program faked: what runs, what is kept, what the table says."""
import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

sys.dont_write_bytecode = True  # a checkout stays clean
from convergence_methods import METHODS  # noqa: E402

HERE = Path(__file__).resolve().parent

# Knows adamw, lion and sgd. Its runs end as losses.json says by method, learning rate and seed: a loss, null, or an
# object {"exit": 6, "err": ..., "sleep": seconds, "until": run, "report": ...}. Every run is a line of runs.txt.
FAKE = """#!{python} -IS
import json, os, sys, time
from pathlib import Path
here = Path({here!r})
command, *words = sys.argv[1:]
options = dict(word[2:].split("=", 1) for word in words if "=" in word)
method = options["optim.method"]
if method not in ("adamw", "lion", "sgd"):
    print("strata: optim.method: no method '" + method + "'", file=sys.stderr)
    sys.exit(2)
if command == "plan":
    print(json.dumps(dict(parameters=1000)))
    sys.exit(0)
name = f"{{method}} {{options['train.schedule.lr']}} {{options['train.seed']}}"
(here / "pid.txt").write_text(str(os.getpid()))
with open(here / "runs.txt", "a") as log:
    log.write(name + "\\n")
(here / "words.txt").write_text(" ".join(words))
Path(options["run.dir"]).mkdir()
end = json.loads((here / "losses.json").read_text()).get(name, 9.0)
end = end if isinstance(end, dict) else dict(loss=end)
time.sleep(end.get("sleep", 0))
while end.get("until", "") not in (here / "runs.txt").read_text():
    time.sleep(0.01)
print(end.get("err", "step 1"), file=sys.stderr)
if "exit" in end:
    sys.exit(end["exit"])
ranks = [dict(state_bytes=8000, weights_bytes=4000, grads_bytes=4000)]
print(end.get("report") or json.dumps(dict(step=int(options["train.steps"]), interrupted=False,
                                           validation_loss=end.get("loss", 9.0), model_by_rank=ranks)))
"""
LOW, MID, HIGH = (f"{lr:g}" for lr in next(method for method in METHODS if method.name == "adamw").lrs)
ADAMW_RUNS = [f"adamw {LOW} 1", f"adamw {MID} 1", f"adamw {HIGH} 1", f"adamw {MID} 2", f"adamw {MID} 3"]
ADAMW = dict(zip(ADAMW_RUNS, (2.2, 2.0, 2.1, 2.1, 1.9)))
LION_LOW, LION_MID, LION_HIGH = (f"{lr:g}" for lr in next(method for method in METHODS if method.name == "lion").lrs)
LION_RUNS = [f"lion {LION_LOW} 1", f"lion {LION_MID} 1", *(f"lion {LION_HIGH} {seed}" for seed in (1, 2, 3))]
LION = dict(zip(LION_RUNS, (2.5, 2.4, 2.05, 2.06, 2.07)))


class Convergence(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)
        (self.directory / "tree/optim").mkdir(parents=True)
        (self.directory / "tree/optim/adamw.cpp").write_text("rule")
        (self.directory / "text.txt").write_text("to be or not to be")
        (self.directory / "tmp").mkdir()
        self.build()
        self.losses(ADAMW | LION)
        self.out = self.directory / "results.jsonl"

    def build(self):
        strata = self.directory / "strata"
        strata.write_text(FAKE.format(python=sys.executable, here=str(self.directory)))
        strata.chmod(0o755)

    def losses(self, losses):
        (self.directory / "losses.json").write_text(json.dumps(losses))

    def command(self, *words, only="adamw", jobs="1"):
        return [sys.executable, HERE / "convergence", "--strata", self.directory / "strata", "--out", self.out,
                "--sources", self.directory / "tree", "--data", self.directory / "text.txt", "--jobs", jobs,
                *(["--only", only] if only else []), *words]

    def convergence(self, *words, code=0, **options):
        end = subprocess.run(self.command(*words, **options), capture_output=True, text=True, check=False,
                             env=os.environ | {"TMPDIR": str(self.directory / "tmp")})
        self.assertEqual(end.returncode, code, end.stderr)
        self.assertNotIn("Traceback", end.stderr)
        self.assertEqual(list((self.directory / "tmp").iterdir()), [], "run directories are left")
        return end

    def ran(self):
        """The runs since the last call."""
        log = self.directory / "runs.txt"
        runs = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return runs

    def rows(self, end):
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in end.stdout.splitlines()
                 if line.startswith("|")]
        return {row[0]: dict(zip(cells[0], row)) for row in cells[2:]}

    def refused(self, end, *parts):
        self.assertEqual(end.stdout, "")
        for part in ("convergence: ", *parts):
            self.assertIn(part, end.stderr)

    def test_the_grid_on_seed_1_then_the_other_seeds_at_the_best(self):
        self.convergence()
        self.assertEqual(self.ran(), ADAMW_RUNS)

    def test_the_lowest_rate_can_be_the_best(self):
        self.losses(ADAMW | {f"adamw {LOW} 1": 1.5})
        end = self.convergence("--seeds", "2")
        self.assertEqual(self.ran()[3:], [f"adamw {LOW} 2"])
        self.assertIn("at an end of its grid: adamw.", end.stdout)
        self.losses(ADAMW)
        self.assertNotIn("at an end", self.convergence("--seeds", "2", "--steps", "3").stdout)

    def test_settings_of_a_run(self):
        self.convergence("--seeds", "1", "--steps", "70", only="lion")
        words = (self.directory / "words.txt").read_text().split()
        for word in ("--optim.method=lion", "--optim.weight_decay=1.5", "--train.steps=70", "--threads=1",
                     "--train.schedule.warmup_steps=35", "--model.L=2", "--model.C=128", "--train.batch_tokens=1024",
                     "--optim.clip=1", f"--data.train={self.directory}/text.txt"):
            self.assertIn(word, words)
        self.convergence("--seeds", "1", only="sgd")
        self.assertNotIn("weight_decay", (self.directory / "words.txt").read_text())

    def test_table(self):
        rows = self.rows(self.convergence(only="adamw,lion"))
        self.assertEqual(rows["adamw"]["losses"], "2.0000 2.1000 1.9000")
        self.assertEqual(rows["adamw"]["mean"], "2.0000")
        self.assertEqual(rows["adamw"]["best lr of its grid"], f"{MID} of {LOW}, {MID}, {HIGH}")
        self.assertEqual((rows["adamw"]["state B/param"], rows["adamw"]["weights B/param"]), ("8.00", "4.00"))
        self.assertEqual((rows["lion"]["mean"], rows["lion"]["against adamw"]), ("2.0600", "+3.00 %"))
        self.assertEqual((rows["lion"]["limit"], rows["adamw"]["limit"]), ("+3 %", "-"))
        self.assertEqual((rows["lion"]["verdict"], rows["adamw"]["verdict"]), ("met", "reported"))

    def test_a_mean_above_the_limit_is_missed(self):
        self.losses(ADAMW | LION | {f"lion {LION_HIGH} 3": 2.08})
        row = self.rows(self.convergence(only="adamw,lion"))["lion"]
        self.assertEqual((row["against adamw"], row["verdict"]), ("+3.17 %", "MISSED"))

    def test_without_adamw_there_is_no_verdict(self):
        row = self.rows(self.convergence(only="lion"))["lion"]
        self.assertEqual((row["against adamw"], row["verdict"]), ("-", "waits for adamw"))

    def test_a_finished_run_is_not_repeated(self):
        first = self.convergence()
        self.ran()
        second = self.convergence()
        self.assertEqual(self.ran(), [])
        self.assertEqual(first.stdout, second.stdout)
        self.assertEqual(self.convergence("--table").stdout, first.stdout)

    def test_steps_seed_and_text_are_part_of_the_key(self):
        self.convergence("--seeds", "1")
        self.convergence("--seeds", "2")
        self.assertEqual(self.ran()[3:], [f"adamw {MID} 2"])
        self.convergence("--seeds", "1", "--steps", "50")
        self.assertEqual(len(self.ran()), 3)
        (self.directory / "text.txt").write_text("another")
        self.convergence("--seeds", "1")
        self.assertEqual(len(self.ran()), 3)

    def test_rows_of_one_method_are_told_apart(self):
        self.convergence()
        self.losses({name: loss + 1 for name, loss in ADAMW.items()})
        rows = self.rows(self.convergence(only="adamw,adamw_bf16_kahan,adamw_bf16_sr"))
        self.assertEqual(len(self.ran()), 15)
        self.assertEqual([rows[name]["mean"] for name in rows], ["2.0000", "3.0000", "3.0000"])
        self.assertIn("train.weights=kahan", rows["adamw_bf16_kahan"]["settings"])

    def test_other_sources_run_again_and_the_old_results_stay(self):
        old = self.convergence("--seeds", "1").stdout
        self.ran()
        (self.directory / "tree/core/compress").mkdir(parents=True)
        (self.directory / "tree/core/compress/top_k.h").write_text("choose")
        self.build()
        self.assertEqual(self.rows(self.convergence("--table")), {})
        self.convergence("--seeds", "1")
        self.assertEqual(len(self.ran()), 3)
        before = old.split("sources ")[1].split(";")[0]
        self.assertEqual(self.convergence("--seeds", "1", "--table", "--hash", before).stdout, old)
        (self.directory / "tree/optim/README.md").write_text("words do not update weights")
        self.convergence("--seeds", "1")
        self.assertEqual(self.ran(), [])

    def test_a_program_older_than_its_sources_is_refused(self):
        later = time.time() + 10
        os.utime(self.directory / "tree/optim/adamw.cpp", (later, later))
        self.refused(self.convergence(code=1), "is older than", "adamw.cpp", "build first")
        self.assertEqual(self.ran(), [])

    def test_the_rest_of_a_line_that_a_kill_left_is_passed_over(self):
        self.convergence()
        self.ran()
        whole = self.out.read_bytes()
        self.out.write_bytes(whole[:-20])
        end = self.convergence()
        self.assertEqual(self.ran(), [f"adamw {MID} 3"])
        self.assertIn("no result", end.stderr)
        self.assertEqual(self.rows(end)["adamw"]["mean"], "2.0000")
        self.convergence()
        self.assertEqual(self.ran(), [], "the line after the torn one was lost")

    def test_lines_that_are_none_are_passed_over(self):
        self.out.write_text('[]\n{"loss": 1.0}\n7\n\xff\n{"loss": "low"}\n')
        self.convergence()
        self.assertEqual(self.ran(), ADAMW_RUNS)

    def test_a_killed_benchmark_goes_on(self):
        self.losses(ADAMW | {f"adamw {HIGH} 1": {"sleep": 60}})
        process = subprocess.Popen(self.command(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                   env=os.environ | {"TMPDIR": str(self.directory / "tmp")})
        log = self.directory / "runs.txt"
        while not log.exists() or f"adamw {HIGH} 1" not in log.read_text():
            self.assertIsNone(process.poll())
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(timeout=50), 128 + signal.SIGTERM)
        with self.assertRaises(ProcessLookupError, msg="its run goes on"):
            os.kill(int((self.directory / "pid.txt").read_text()), 0)
        self.assertEqual(list((self.directory / "tmp").iterdir()), [])
        self.ran()
        self.losses(ADAMW)
        self.convergence()
        self.assertEqual(self.ran(), ADAMW_RUNS[2:])

    def test_failed_runs_are_results(self):
        diverged = {"exit": 6, "err": "step 1\nstrata: train: step 21 has a loss of -nan; x/ckpt holds the state"}
        self.losses(ADAMW | LION | dict(zip(LION_RUNS, (2.0, None, diverged))))
        end = self.convergence("--seeds", "1", only="adamw,lion")
        self.assertEqual(self.rows(end)["lion"]["best lr of its grid"],
                         f"{LION_LOW} of {LION_LOW}, {LION_MID}, {LION_HIGH}")
        self.assertIn(f"Failed: lion lr {LION_HIGH} seed 1: train: step 21 has a loss of -nan.", end.stdout)
        self.assertIn(f"Failed: lion lr {LION_MID} seed 1: the validation loss is not finite.", end.stdout)
        self.ran()
        self.convergence("--seeds", "1", only="adamw,lion")
        self.assertEqual(self.ran(), [])

    def test_a_failed_seed_misses_and_so_does_a_failed_grid(self):
        diverged = {"exit": 6, "err": "strata: train: nan"}
        self.losses(ADAMW | LION | {f"lion {LION_HIGH} 2": diverged})
        row = self.rows(self.convergence(only="adamw,lion"))["lion"]
        self.assertEqual((row["losses"], row["mean"]), ("2.0500 failed 2.0700", "-"))
        self.assertEqual(row["verdict"], "MISSED: failed")
        self.losses(ADAMW | dict.fromkeys(LION_RUNS[:3], diverged))
        row = self.rows(self.convergence("--steps", "5", only="adamw,lion"))["lion"]
        self.assertEqual((row["best lr of its grid"], row["losses"], row["verdict"]), ("none", "-", "MISSED: failed"))

    def test_other_ends_are_no_results(self):
        for end, told in (({"exit": 8, "err": "strata: disk full"}, "exit code 8"),
                          ({"report": "12"}, "report is not as expected"),
                          ({"report": '{"step": 7, "interrupted": true}'}, "ended at step 7 of 2000")):
            self.losses(ADAMW | LION | {f"adamw {MID} 1": end})
            result = self.convergence("--seeds", "1", only="adamw,lion", code=1)
            self.assertIn(told, result.stderr)
            self.assertEqual(self.rows(result)["adamw"]["verdict"], "incomplete")
            self.assertEqual(self.rows(result)["lion"]["mean"], "2.0500", "the other methods go on")
            self.out.unlink()

    def test_a_run_that_hangs(self):
        self.losses(ADAMW | {f"adamw {LOW} 1": {"sleep": 60}})
        end = self.convergence("--timeout", "1", code=1)
        self.assertIn(f"adamw lr {LOW} seed 1: still running after 1 s", end.stderr)
        self.assertNotIn(f"adamw {MID} 1", self.ran(), "the other rates of this method wait")

    def test_a_method_that_the_program_does_not_know_is_skipped(self):
        end = self.convergence("--seeds", "1", only="adamw,muon")
        self.assertIn("skipping muon: optim.method: no method 'muon'", end.stderr)
        self.assertEqual([*self.rows(end)], ["adamw"])
        self.assertIn("No results: muon.", end.stdout)

    def test_budget(self):
        end = self.convergence("--budget-minutes", "0")
        self.assertEqual((self.ran(), self.rows(end)), ([], {}))
        self.losses({name: {"sleep": 0.4} for name in ADAMW_RUNS})
        self.convergence("--budget-minutes", "0.01")
        self.assertLess(len(self.ran()), 3, "0.6 s begin two runs of 0.4 s at most")
        self.losses(ADAMW)
        self.convergence("--budget-minutes", "1000", "--steps", "5")
        self.assertEqual(self.ran(), ADAMW_RUNS)

    def test_two_at_a_time(self):
        self.losses(ADAMW | {f"adamw {LOW} 1": {"until": f"adamw {HIGH} 1"}})
        self.convergence("--seeds", "1", "--timeout", "30", jobs="2")
        order = [json.loads(line)["lr"] for line in self.out.read_text().splitlines()]
        self.assertEqual(order[0], float(MID))
        self.assertEqual(sorted(order), [float(LOW), float(MID), float(HIGH)])

    def test_macbook(self):
        self.convergence("--macbook", only=None)
        self.assertEqual(self.ran(), ["adamw 0.001 1", "adamw 0.001 2", "adamw 0.001 3"])
        words = (self.directory / "words.txt").read_text()
        for word in ("--model.L=4", "--train.batch_tokens=768", "--data.tokenizer=chars", "--optim.beta2=0.99"):
            self.assertIn(word, words)
        self.assertIn("1.88", self.convergence("--macbook", "--table", only=None).stdout)

    def test_usage(self):
        for words in (["--steps", "0"], ["--jobs", "x"], ["--hash", "abc"]):
            self.convergence(*words, code=2)
        self.refused(self.convergence(only="adamv", code=1), "no method 'adamv'", "adamw")
        self.refused(self.convergence("--data", "/nowhere/text", code=1), "no text /nowhere/text", "--data")
        self.refused(self.convergence("--strata", "/nowhere/strata", code=1), "no program /nowhere/strata")
        self.refused(self.convergence("--sources", self.directory / "tmp", code=1), "no sources")
        self.assertEqual(self.ran(), [])

    def test_two_benchmarks_do_not_share_a_file(self):
        with open(self.out, "a") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            self.refused(self.convergence(code=1), "another benchmark writes")


if __name__ == "__main__":
    unittest.main()
