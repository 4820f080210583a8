#!/usr/bin/env python3
"""tests/bench/compare with both sides faked: order, ratios, refusals."""
import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent

# Says which side ran in `order.txt`, and reports the next speed of its list.
FAKE = """
import json, sys
from pathlib import Path
side, *speeds = sys.argv[1].split(",")
log = Path(__file__).parent / "order.txt"
ran = log.read_text().split() if log.exists() else []
log.write_text(" ".join([*ran, side]))
(log.parent / (side + ".args")).write_text(" ".join(sys.argv[2:]))
speed = float(speeds[ran.count(side)])
print(json.dumps({"tokens_per_second": speed, "peak_rss_bytes": (300 if side == "s" else 400) * 2**20}))
"""


class Compare(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)
        (self.directory / "fake.py").write_text(FAKE)

    def fake(self, speeds):
        return f"{sys.executable} {self.directory}/fake.py {speeds}"

    def compare(self, *words, strata="s,20,90,40", peer="p,10,30,20", rounds="3"):
        sides = ["--strata", strata if " " in strata else self.fake(strata),
                 "--peer", peer if " " in peer else self.fake(peer)]
        return subprocess.run([sys.executable, HERE / "compare", "--model", "gpt2-char", "--batch", "8", "--seq", "256",
                               "--dtype", "bf16", "--steps", "2", "--rounds", rounds, *sides, *words],
                              capture_output=True, text=True, check=False)

    def refused(self, end, *parts):
        self.assertEqual(end.returncode, 1, end.stdout)
        self.assertEqual(end.stdout, "")
        for part in ("compare: ", *parts):
            self.assertIn(part, end.stderr)
        self.assertNotIn("Traceback", end.stderr.split("last lines")[0])

    def test_the_sides_take_turns(self):
        self.assertEqual(self.compare().returncode, 0)
        self.assertEqual((self.directory / "order.txt").read_text(), "p s p s p s")

    def test_both_get_the_same_sizes(self):
        self.compare()
        sizes = "--batch 8 --seq 256 --dtype bf16 --steps 2 --json"
        self.assertEqual((self.directory / "s.args").read_text(), f"bench step --model gpt2-char {sizes}")
        self.assertEqual((self.directory / "p.args").read_text(), f"gpt2-char {sizes}")

    def test_ratios(self):
        result = json.loads(self.compare("--json").stdout)
        self.assertEqual(result["strata"]["tokens_per_second"], {"median": 40, "min": 20, "max": 90})
        self.assertEqual(result["peer"]["tokens_per_second"], {"median": 20, "min": 10, "max": 30})
        self.assertEqual(result["ratio"]["of_medians"], 2)
        self.assertEqual(result["ratio"]["per_round"], {"median": 2, "min": 2, "max": 3})
        self.assertEqual(result["ratio"]["peak_rss"], 0.75)
        self.assertEqual(len(result["peer"]["reports"]), 3)

    def test_text(self):
        lines = self.compare().stdout.splitlines()
        self.assertEqual(lines[0], "gpt2-char B8 T256 bf16, 3 rounds of 2 steps")
        self.assertRegex(lines[1], r"strata +40\.0 tokens/s \(20\.0 \.\. 90\.0\) +300 MiB peak resident")
        self.assertRegex(lines[2], r"peer +20\.0 tokens/s \(10\.0 \.\. 30\.0\) +400 MiB peak resident")
        self.assertRegex(lines[3], r"ratio +2\.000 strata / peer, rounds 2\.000 \.\. 3\.000; peak resident 0\.750")

    def test_a_side_that_fails_is_quoted(self):
        end = self.compare(strata="sh -c 'for i in 1 2 3 4 5 6 7 8 9; do echo line $i >&2; done; exit 7'")
        self.refused(end, "strata: exit code 7", "line 9")
        self.assertNotIn("line 1\n", end.stderr)

    def test_a_side_that_is_killed(self):
        self.refused(self.compare(strata="sh -c 'kill -9 $$'"), "strata: signal 9")

    def test_a_side_that_hangs(self):
        self.refused(self.compare("--timeout", "1", strata="sh -c 'exec sleep 60'"), "strata: still running after 1 s")

    def test_a_missing_program(self):
        self.refused(self.compare(strata="/nowhere/strata "), "strata: cannot run /nowhere/strata", "--strata")

    def test_reports_that_are_none(self):
        self.refused(self.compare(peer="sh -c 'echo 12 tokens'"), "peer: one JSON object was expected", "12 tokens")
        self.refused(self.compare(peer="sh -c 'echo []'"), "'tokens_per_second'", "got null")
        self.refused(self.compare(strata="sh -c 'echo {\\\"tokens_per_second\\\": 0}'"), "got 0")
        self.refused(self.compare(strata="sh -c 'echo {\\\"tokens_per_second\\\": 5}'"), "'peak_rss_bytes'", "got null")

    def test_usage(self):
        for words in (["--rounds", "0"], ["--dtype", "f16"], ["--steps", "x"]):
            self.assertEqual(self.compare(*words).returncode, 2, words)

    def test_the_peer_names_its_models(self):
        end = subprocess.run([sys.executable, HERE / "compare", "--model", "gpt2-125m", "--batch", "1", "--seq", "8",
                              "--strata", self.fake("s,1")], capture_output=True, text=True, check=False)
        self.refused(end, "peer: exit code 2", "no model 'gpt2-125m'", "gpt2-124m")

    def test_the_peer_without_torch(self):
        # An isolated interpreter without site-packages has the standard library only.
        end = self.compare("--model", "tiny-gpt2", peer=f"{sys.executable} -I -S {HERE}/peers/torch_gpt.py")
        self.refused(end, "peer: exit code", "needs torch")


if __name__ == "__main__":
    unittest.main()
