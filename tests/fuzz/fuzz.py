#!/usr/bin/env python3
"""Spoils inputs at random and runs the program on them: ./dev fuzz MINUTES

Found cases are reduced and written as recipes, lines of JSON, beside this file's kept ones
(kept.jsonl), which every run tries first. Exit code 1 where something is wrong.
"""

import argparse
import collections
import concurrent.futures
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

import h5py
import small_inputs
from judge import MEMORY, judge
from recipes import Chef
from spoil import Kitchen

KEPT = Path(__file__).with_name("kept.jsonl")
# h5py shares the HDF5 library among threads, and its errors too: one at a time
LIBRARY = threading.Lock()


class Bench:
    """Sound inputs to copy, and where cases are tried."""

    def __init__(self, program, seconds, memory):
        self.program, self.seconds, self.memory = program, seconds, memory
        self.root = Path(tempfile.mkdtemp(prefix="ptyle-fuzz-"))
        self.sound = self.root / "sound"
        self.sound.mkdir()
        small_inputs.make(self.sound, program)

    def close(self):
        shutil.rmtree(self.root, ignore_errors=True)

    def attempt(self, recipe):
        """(Fault or None, exit code, stderr)."""
        above = Path(tempfile.mkdtemp(dir=self.root))
        folder = above / "case"
        try:
            shutil.copytree(self.sound, folder)
            # `run` starts anew, `resume` goes on from one iteration
            if recipe["verb"] == "resume":
                shutil.copytree(folder / "done1", folder / "out")
            try:
                with LIBRARY:
                    kitchen = Kitchen(folder, recipe)
            except Exception as error:  # an earlier step took away what this one spoils
                return None, None, f"not made: {error}"
            if recipe["verb"] == "resume":  # the data that the checkpoint was made with
                for key in ("data.file", "probe.file"):
                    kitchen.options += ["--set", f"{key}={self.sound}/data.h5"]
            found = judge(self.program, folder, recipe, kitchen, self.seconds, self.memory)
            return found
        finally:
            shutil.rmtree(above, ignore_errors=True)

    def reduce(self, recipe, fault):
        """A shorter recipe with the same fault."""

        def same(candidate):
            found = self.attempt(candidate)[0]
            return found is not None and found.signature == fault.signature

        again = True
        while again and len(recipe["steps"]) > 1:
            again = False
            for k in range(len(recipe["steps"])):
                steps = recipe["steps"][:k] + recipe["steps"][k + 1 :]
                if same(recipe | {"steps": steps}):
                    recipe, again = recipe | {"steps": steps}, True
                    break
        step = recipe["steps"][0]
        if len(recipe["steps"]) == 1 and step[0] == "flip" and len(step[2]) > 1:
            for place in step[2][:20]:  # often a single bit does it
                one = recipe | {"steps": [[*step[:2], [place]]]}
                if same(one):
                    return one
        return recipe


def kept_recipes():
    return [json.loads(line) for line in KEPT.read_text().splitlines() if line.strip()]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("minutes", type=float, nargs="?", default=10.0)
    parser.add_argument("--seed", type=int, default=None, help="of the recipes [the clock]")
    parser.add_argument("--program", default=str(Path(sys.executable).with_name("ptyle")))
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--seconds", type=float, default=10.0, help="that a case may take")
    parser.add_argument("--cases", type=int, default=10**9, help="at most so many")
    parser.add_argument("--no-memory-limit", action="store_true", help="for the address sanitizer")
    parser.add_argument("--found", type=Path, default=None, help="where found recipes are written")
    parser.add_argument("--recipe", help="tries one recipe (JSON) and shows what the program says")
    options = parser.parse_args()

    program = str(Path(options.program).resolve())
    if not os.access(program, os.X_OK):
        parser.error(f"there is no program {program}: ./dev build makes it")
    bench = Bench(program, options.seconds, 0 if options.no_memory_limit else MEMORY)
    try:
        if options.recipe:
            fault, code, err = bench.attempt(json.loads(options.recipe))
            print(err, end="")
            print(f"exit code {code}; {fault or 'nothing wrong'}")
            return fault is not None
        return campaign(bench, Chef(program), options)
    finally:
        bench.close()


def told(fault, recipe):
    return f"{fault.kind}: {fault.detail[:400]}\n  {json.dumps(recipe)}"


def campaign(bench, chef, options):
    seed = options.seed if options.seed is not None else int(time.time())
    print(f"seed {seed}, {options.minutes:g} minutes, {options.jobs} at a time", flush=True)
    end = time.monotonic() + 60.0 * options.minutes
    kept = kept_recipes()
    lock = threading.Lock()
    codes, found, unmade = collections.Counter(), {}, 0
    number = 0

    def next_recipe():
        nonlocal number
        with lock:
            number += 1
            n = number
        if n <= len(kept):
            return kept[n - 1]
        if n - len(kept) > options.cases or time.monotonic() > end:
            return None
        return chef.recipe(seed, n - len(kept))

    def work():
        nonlocal unmade
        while (recipe := next_recipe()) is not None:
            fault, code, err = bench.attempt(recipe)
            with lock:
                codes[code] += 1
                unmade += code is None and fault is None
                known = fault is None or fault.signature in found
                if fault is not None and known:
                    found[fault.signature][2] += 1
                if not known:
                    found[fault.signature] = [fault, recipe, 1]
            if not known:
                recipe = bench.reduce(recipe, fault)
                with lock:
                    found[fault.signature][1] = recipe
                    print("FOUND", told(fault, recipe), flush=True)
                    if options.found:
                        with open(options.found, "a") as out:
                            out.write(json.dumps(recipe | {"fault": fault.signature}) + "\n")

    begin = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for done in [pool.submit(work) for _ in range(options.jobs)]:
            done.result()
    minutes = (time.monotonic() - begin) / 60.0
    ends = sorted((str(code), n) for code, n in codes.items() if code is not None)
    cases = f"{sum(codes.values())} cases in {minutes:.1f} minutes"
    words = ", ".join(f"{n} with {code}" for code, n in ends)
    print(f"{cases}: exit codes {words}; {unmade} not made")
    kinds = collections.Counter(fault.kind for fault, _, _ in found.values())
    for fault, recipe, times in found.values():
        print(f"{times} times:", told(fault, recipe))
    print(f"faults: {len(found)}" + "".join(f"; {kind}: {n}" for kind, n in kinds.items()))
    return bool(found)


if __name__ == "__main__":
    h5py._errors.silence_errors()
    sys.exit(main())
