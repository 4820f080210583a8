#!/usr/bin/env python3
"""tests/bench/peers/torch_gpt.py trains; exits 77 (skipped) and says why where this Python cannot import torch."""
import json
import subprocess
import sys
import unittest
from pathlib import Path

SCRIPT = Path(__file__).resolve().parent / "peers/torch_gpt.py"


def report(dtype):
    words = [sys.executable, SCRIPT, "tiny-gpt2", "--batch", "2", "--seq", "32", "--dtype", dtype, "--steps", "2",
             "--compile", "no", "--json"]
    return json.loads(subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout)


class TorchGpt(unittest.TestCase):
    def test_the_report(self):
        for dtype in ("f32", "bf16"):
            with self.subTest(dtype=dtype):
                r = report(dtype)
                self.assertEqual((r["model"], r["dtype"], r["batch"], r["seq"], r["steps"]), ("tiny-gpt2", dtype, 2, 32, 2))
                step = r["step_seconds"]
                self.assertTrue(0 < step["min"] <= step["median"] <= step["max"], step)
                self.assertAlmostEqual(r["tokens_per_second"], 2 * 32 / step["median"])
                self.assertGreater(r["peak_rss_bytes"], 50 << 20)
                # Random tokens, small weights: log 256 before the first step; then one batch is learnt by heart.
                self.assertAlmostEqual(r["first_loss"], 5.55, delta=0.1)
                self.assertLess(r["last_loss"], r["first_loss"] - 0.02)
                self.assertEqual(r["environment"]["GLIBC_TUNABLES"], "glibc.malloc.hugetlb=1")


if __name__ == "__main__":
    tried = subprocess.run([sys.executable, "-c", "import torch"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        print(f"skipped: {sys.executable} cannot import torch: {tried.stderr.strip().splitlines()[-1]}")
        sys.exit(77)
    unittest.main()
