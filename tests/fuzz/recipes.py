"""Recipes at random: what is spoiled, how, and which exit codes are then right.

Nothing here knows how the program reads: keys and words are what `ptyle run --help-config` tells a
user, values are what users and broken disks come up with.
"""

import json
import random
import re
import subprocess

from small_inputs import KINDS, WINDOW, config_of
from spoil import ATTRIBUTES, DTYPES, LINKS, STORES

INTEGERS = (
    "0 -1 1 2 3 7 2147483648 9223372036854775807 -9223372036854775808 1000000000000 0x10 1_0"
).split()
NUMBERS = "0.0 -0.0 1e-300 1e300 -1.5 0.5 1e-9 nan inf -inf 1e308 123.456 1e-320".split()
LISTS = (
    "[0,0] [-1,3] [2,2] [1,1] [4,4,4] [] [1] [1.5,2.5] [9223372036854775807,2] [3,5] [[1,2],[3,4]]"
    " [[1,0],[0,1]] [[1,0],[0,0]] [[0,1],[1,0]] [2,2,6,8] [nan,1] [1e300,1e300] [6,5] [1,30]"
    ' [8,8] ["object"] ["probe","probe"] [true,false] [1,"a"] [4611686018427387904,2]'
    " [0,0,12,16] [3,3,9223372036854775807,9223372036854775807] [12,16]"
).split()
WORDS = (
    '"" "data" "positions" "probe" "mask" "mask3" "missing" "data.h5:mask" "data.h5:" ":mask"'
    ' "near.h5:data" "gone.h5:data" "/" "." ".." "/data" "//data//" "group" "group/inner"'
    ' "ünïcode" "\\u0000" "new\\nline" "/dev/null" "/dev/zero" "data.h5" "%s%n" "auto" "corner"'
    ' "near" "object" "floats" "grid" "packed" "pieces" "modes" "dark" "a:b:c" "case.toml"'
    ' "phase.pt" "done1/result.h5" "done1/result.h5:object"'
    ' "done1/checkpoint.h5:unknowns/probe/0/value" "1" "nan"'
    ' "\'" "\\"" "\\\\" "none" "exact" "data.h5:data" "data.h5:positions" "\\uFFFF"'
).split()
LONG = '"' + "a" * 5000 + '"'
# no key is made of these
WRONG = ["1979-05-27", "1979-05-27T07:32:00Z", "07:32:00", "[[[1]]]", "{ a = 1 }"]
LINES = [
    "[",
    "[[data]]",
    "[data]",
    "x = ",
    "= 1",
    "data = 3",
    "data.file.name = 1",
    "[prior]",
    "prior = 1",
    "prior = []",
    "prior = [1, 2]",
    "[[prior]]",
    "[[prior.deep]]",
    "[[prior]]\nfile = 1",
    '"" = 1',
    '"data.file" = 1',
    "[data.raster.shape.more]",
    "[probe.aberrations]\nC99_nm = 1",
    "[probe.aberrations]\nC12_nm = nan",
    "[probe]\naberrations = 3",
    "a = " + "[" * 300 + "]" * 300,
    "a" + ".b" * 300 + " = 1",
    "# \u0000",
    "\ufeff",
    "\udcff",
    'key = """',
    "seed = 99999999999999999999999",
    "unknown = 1",
    "[reconstruct]\nstep = 1\nstep = 2",
]
CARDS = {
    "format": [None, 1, "", "ptyle.prior2", ["ptyle.prior"]],
    "version": [None, 0, 2, 1.0, "1", 2**70, -1, [1]],
    "kind": [None, "regulariser", "", 3, ["denoiser"]],
    "channels": [None, [], ["phase", "phase"], ["amplitude"], "phase", [1], ["phase"] * 1000],
    "receptive_field": [None, -1, 65536, 65537, 1.5, 2**63, "3", 1e300, [0], True],
    "noise": [
        None, {}, {"least": 1}, {"least": 2, "most": 1}, {"least": "a", "most": "b"},
        {"least": -1, "most": 1}, {"least": 0, "most": 1e308}, [0, 1], {"least": 2, "most": 3},
    ],
    "smallest": [
        None, [], [1], [0, 1], [1, 65537], [65536, 65536], ["a", "b"], [1.5, 2], [100, 100],
    ],
    "units": [None, 3],
    "extra": [{"deep": [[[]]]}, "x" * 10000],
}  # fmt: skip
CARD_TEXTS = ["", "{", "[]", "null", "NaN", "{}", '{"format": NaN}', "[" * 3000, '"\udcff"', "\x00"]
VARIABLES = {
    "RANK": ["-1", "0", "1", "x", "99999999999999999999", "1.5", " 0"],
    "WORLD_SIZE": ["0", "-1", "2", "x", "1", "1000000000000"],
    "LOCAL_RANK": ["-1", "x", "5"],
    "MASTER_ADDR": ["", "nowhere.invalid", "256.1.1.1", "127.0.0.1", "::1", "a" * 300],
    "MASTER_PORT": ["0", "-1", "65536", "x", "22", "1"],
    "OMPI_COMM_WORLD_RANK": ["-1", "0", "x"],
    "OMPI_COMM_WORLD_SIZE": ["0", "2", "1", "x"],
    "PMI_RANK": ["0", "x"],
    "PMI_SIZE": ["1", "x", "0"],
    "SLURM_PROCID": ["0", "x"],
    "SLURM_STEP_NUM_TASKS": ["1", "x", "2"],
    "SLURM_STEP_NODELIST": ["node[", "node[1-2]", "", "[", "]", ","],
    "OMP_NUM_THREADS": ["0", "-1", "x", "2", "1000"],
    "PTYLE_ISA": ["", "base", "x", "v4", "v3"],
    "TMPDIR": ["/nowhere", ""],
    "HOME": ["/nowhere", ""],
    "LC_ALL": ["de_DE.UTF-8", "x", "C"],
    "HDF5_USE_FILE_LOCKING": ["FALSE", "x"],
    "HDF5_PLUGIN_PATH": ["/nowhere"],
}
SIMULATE = {
    "--energy-keV": None, "--semiangle-mrad": None, "--defocus-nm": None, "--aberration": None,
    "--aperture-edge-mrad": None, "--source-size-nm": None, "--modes": None,
    "--thickness-nm": None, "--slices": None, "--orientation": ["100", "1", "", "001"],
    "--phonons": None, "--scattering-factors": ["lobato", "x", ""], "--scan": None,
    "--step-nm": None, "--jitter-nm": None, "--rotation-deg": None, "--window": None,
    "--max-angle-mrad": None, "--oversampling": None, "--band-limit": None, "--dose": None,
    "--counts-per-position": None, "--seed": None, "--precision": ["single", "half", ""],
}  # fmt: skip
SIMULATE_VALUES = (
    "0 -1 1 2 3 1.5 nan inf -inf 1e300 1e-300 9223372036854775807 99999999999999999999 x 16 0.1"
    " C30_nm=1000 C30_nm=nan C30_nm= =1 C99_nm=1 phi12_deg=1e300 C12_nm=1e300"
).split() + [""]
DATASETS = (
    "data positions probe modes mask mask3 dark floats grid packed pieces group/inner".split()
)
SHAPES = {"positions": (30, 2), "data": (30, *WINDOW), "probe": WINDOW, "mask": WINDOW}
STATE = (
    "unknowns/probe/0/value numbers unknowns/object/0/value history/loss"
    " history/amplitude_error history/seconds lists unknowns unknowns/object/0 history"
).split()
FIELDS = "config data grid format".split()
CHECKPOINT = "out/checkpoint.h5"


class Chef:
    """Makes recipes; recipe number n of a seed is always the same."""

    def __init__(self, program):
        text = subprocess.run([program, "run", "--help-config"], capture_output=True, text=True)
        self.keys = keys_of(text.stdout)
        if len(self.keys) < 50:
            raise RuntimeError(f"--help-config lists {len(self.keys)} keys only")

    def recipe(self, seed, number):
        r = random.Random(f"{seed}/{number}")
        makers = {
            self.spoiled_keys: 26, self.spoiled_text: 6, self.spoiled_data: 26,
            self.damaged_data: 14, self.spoiled_checkpoint: 8, self.damaged_checkpoint: 8,
            self.spoiled_prior: 6, self.damaged_prior: 3, self.spoiled_simulation: 8,
            self.spoiled_command: 4, self.spoiled_environment: 4, self.spoiled_files: 4,
        }  # fmt: skip
        maker = r.choices(list(makers), list(makers.values()))[0]
        made = {"kind": r.choice(list(KINDS)), "verb": r.choice(["check", "run", "run"])}
        return made | maker(r, made["kind"])

    # --- configs ---

    def value(self, r, key):
        name = key.split(".")[-1]
        pool = self.keys.get(key, [])
        if pool and r.random() < 0.5:
            return r.choice(pool)
        some = r.choice([INTEGERS, NUMBERS, LISTS, WORDS, WORDS, ["true", "false"], [LONG]])
        text = r.choice(some)
        if name == "folder" and text.startswith('"/'):  # never outside the case's folder
            return '"/dev/null"'
        if name == "iterations" and re.fullmatch(r"\d{4,}|0x10", text):
            return "3"  # a long run is no hang
        return text

    def spoiled_keys(self, r, kind):
        steps, expect = [], None
        names = list(self.keys)
        for _ in range(r.choice([1, 1, 2, 3])):
            name = r.choice(names if r.random() < 0.7 else list(config_of(kind)))
            how = r.random()
            if how < 0.6:
                steps.append(["key", name, self.value(r, name)])
            elif how < 0.8:
                steps.append(["set", f"{name}={self.value(r, name)}"])
            elif how < 0.87:
                steps.append(["drop", name])
            elif not name.startswith("prior"):
                steps.append(["key", name, r.choice(WRONG)])
                expect = [2]
        wrong = {"steps": steps}
        # a later step may have put a sound value over it
        if expect and len({step[1].split("=")[0] for step in steps}) == len(steps):
            wrong["expect"] = expect
        return wrong

    def spoiled_text(self, r, kind):
        how = r.random()
        if how < 0.4:
            step = [r.choice(["line", "first_line"]), r.choice(LINES)]
        elif how < 0.6:
            step = ["cut_config", round(r.random(), 4)]
        else:
            step = ["flip_config", self.places(r)]
        return {"steps": [step]}

    @staticmethod
    def places(r, most=20):
        return [[round(r.random(), 6), r.randrange(8)] for _ in range(r.randint(1, most))]

    # --- data ---

    def spoiled_data(self, r, kind):
        file = "near.h5" if kind == "near" else "data.h5"
        used = [n for n in (self.used(kind, "data.patterns", "data"), "positions") if n]
        used += [self.used(kind, "data.mask", ""), self.used(kind, "probe.dataset", "probe")]
        used = [name for name in used if name in DATASETS]
        steps = []
        for _ in range(r.choice([1, 1, 1, 2])):
            name = r.choice(used) if r.random() < 0.9 else r.choice(DATASETS)
            steps.append(self.hdf5_step(r, file, name, SHAPES.get(name, (30, *WINDOW))))
        return {"steps": steps}

    @staticmethod
    def used(kind, key, default):
        return config_of(kind).get(key, f'"{default}"').strip('"')

    @staticmethod
    def hdf5_step(r, file, name, shape):
        shape = list(shape)
        how = r.choice(
            ["array"] * 3 + ["cast", "poke", "store", "store", "link", "attribute", "delete"]
        )
        if how == "array":
            axis = r.randrange(len(shape))
            change = r.randrange(9)
            if change == 0:
                shape.pop(axis)
            elif change == 1:
                shape.insert(axis, r.choice([1, 2, 0]))
            elif change == 2:
                shape.reverse()
            elif change == 3:
                shape[axis] += r.choice([1, -1, 100])
            elif change == 4:
                shape[axis] = r.choice([0, 1, 2**20, 2**40, 2**62])
            elif change == 5:
                shape = []
            elif change == 6:
                shape = shape + [1] * (32 - len(shape))
            fills = ["zeros", "random", "nan", "one nan", "inf", "-1", "1e30", "65535"]
            dtype = r.choice(DTYPES if r.random() < 0.5 else ["u2", "f8", "f4", "c8", "i8"])
            return ["array", file, name, dtype, shape, r.choice(fills)]
        if how == "cast":
            return ["cast", file, name, r.choice("u1 i1 >u4 i8 u8 f2 f4 >f8 g c8 c16 bool".split())]
        if how == "poke":
            value = r.choice("0 -1 nan inf 65535 4294967295 1e30 1e300 0.5 -1e9 1e9".split())
            return ["poke", file, name, round(r.random(), 4), value]
        if how == "store":
            return ["store", file, name, r.choice(STORES)]
        if how == "link":
            return ["link", file, name, r.choice(LINKS)]
        if how == "attribute":
            keys = "unit pixel_nm checksum names pixel_size_nm note".split()
            return ["attribute", file, r.choice([name, "/"]), r.choice(keys), r.choice(ATTRIBUTES)]
        return ["delete", file, name]

    def damage(self, r, file):
        how = r.random()
        if how < 0.3:
            return ["truncate", file, round(r.random(), 5)]
        if how < 0.7:
            return ["flip", file, self.places(r, r.choice([1, 3, 30, 300]))]
        if how < 0.9:
            text = r.choice(["00", "ff", "7f", "80", "01"]) * r.choice([1, 2, 4, 8, 64, 512])
            # metadata lies at the beginning more often than not
            place = r.random() if r.random() < 0.5 else r.random() * 0.1
            return ["overwrite", file, round(place, 6), text]
        if how < 0.97:
            return [
                "move_bytes",
                file,
                round(r.random(), 5),
                round(r.random(), 5),
                2 ** r.randint(1, 12),
            ]
        return ["append", file, "00ff" * r.randint(1, 100)]

    def damaged_data(self, r, kind):
        file = "near.h5" if kind == "near" else "data.h5"
        return {"steps": [self.damage(r, file)]}

    # --- checkpoints ---

    def spoiled_checkpoint(self, r, kind):
        steps = []
        for _ in range(r.choice([1, 1, 2])):
            name = r.choice(STATE)
            if r.random() < 0.3:
                field = r.choice([*FIELDS, "names"])
                where = "numbers" if field == "names" else "/"
                if r.random() < 0.3:
                    steps.append(["drop_attribute", CHECKPOINT, where, field])
                elif r.random() < 0.5:
                    text = r.choice(["", "a\nb\n", "[", "x = 1", "a" * 70000, "\udcff", ";;;"])
                    steps.append(["attribute_text", CHECKPOINT, where, field, text])
                else:
                    steps.append(["attribute", CHECKPOINT, where, field, r.choice(ATTRIBUTES)])
            else:
                shape = {"numbers": (6,), "probe": (1, *WINDOW)}.get(name, (1, 33, 30))
                shape = (1,) if name.startswith("history/") else shape
                steps.append(self.hdf5_step(r, CHECKPOINT, name, shape))
        return {"kind": "plain", "verb": "resume", "steps": steps}

    def damaged_checkpoint(self, r, kind):
        return {"kind": "plain", "verb": "resume", "steps": [self.damage(r, CHECKPOINT)]}

    # --- priors ---

    def spoiled_prior(self, r, kind):
        card = {
            "format": "ptyle.prior", "version": 1, "kind": "denoiser", "channels": ["phase"],
            "receptive_field": 0, "noise": {"least": 0.0, "most": 1.0}, "smallest": [1, 1],
        }  # fmt: skip
        for _ in range(r.choice([1, 1, 2])):
            key = r.choice(list(CARDS))
            value = r.choice(CARDS[key])
            if value is None and r.random() < 0.5:
                card.pop(key, None)
            else:
                card[key] = value
        text = json.dumps(card) if r.random() < 0.8 else r.choice(CARD_TEXTS)
        steps = [["card_text", text]]
        if r.random() < 0.25:
            parts = ["data.pkl", "code/", "constants", "version", "card", ".debug_pkl", "byteorder"]
            part = r.choice(parts)
            steps = [r.choice([["drop_record", part], ["record_text", part, "\x80\x02}."]])]
        return {"kind": "prior", "steps": steps}

    def damaged_prior(self, r, kind):
        return {"kind": "prior", "steps": [self.damage(r, "phase.pt")]}

    # --- command lines, the environment, files that are none ---

    def spoiled_simulation(self, r, kind):
        words = [r.choice(["PbTiO3", "SrTiO3", "star", "star", "gold", ""]), "-o", "made.h5"]
        words += ["--window", "16", "--scan", "2", "3", "--slices", "1"]
        for _ in range(r.choice([1, 1, 2, 3])):
            name = r.choice(list(SIMULATE))
            value = r.choice(SIMULATE[name] or SIMULATE_VALUES)
            words += [name, value]
            if name == "--scan":
                words.append(r.choice(SIMULATE_VALUES))
        if r.random() < 0.1:
            words[2] = r.choice(["", ".", "/", "gone/x.h5", "x", "data.h5", "/dev/null", "\n.h5"])
        return {"kind": "plain", "verb": "raw", "steps": [["command", "simulate", *words]]}

    def spoiled_command(self, r, kind):
        words = (
            "run check simulate case.toml --set --resume --overwrite --trace --ranks --halo-error"
            " --help --help-config --version -o -h -- - = 0 -1 2 1000000 99999999999 x data.h5"
            " reconstruct.iterations=1 a=b =1 . gone.toml --set=a --ranks=2 trace.json /dev/null"
        ).split() + ["", "\n", "é", "a" * 3000]
        line = [r.choice(words[:3])] if r.random() < 0.8 else []
        line += ["case.toml"] if r.random() < 0.6 else []
        line += [r.choice(words) for _ in range(r.randint(0, 4))]
        return {"verb": "raw", "steps": [["command", *line]]}

    def spoiled_environment(self, r, kind):
        names = list(VARIABLES)
        first = r.randrange(len(names))
        some = [names[first]] + ([names[(first + 1) % len(names)]] if r.random() < 0.6 else [])
        steps = [["variable", name, r.choice(VARIABLES[name])] for name in some]
        return {"steps": [["set", "tiles.timeout_s=1"], *steps]}

    def spoiled_files(self, r, kind):
        name = r.choice(
            "case.toml data.h5 data.h5 phase.pt out out/checkpoint.h5 out/result.h5".split()
        )
        how = r.choice(
            "folder empty pipe loop text nothing data.h5 done1/checkpoint.h5 phase.pt plain.toml"
            " note.json".split()
        )
        verb = r.choice(["check", "run", "resume"])
        return {
            "kind": r.choice(["plain", "prior", "packed"]),
            "verb": verb,
            "steps": [["replace", name, how]],
        }


def keys_of(help_text):
    """Dotted key -> words that are allowed there, from --help-config."""
    found, table, key = {}, "", None
    for line in help_text.splitlines():
        if head := re.fullmatch(r"\[\[?([a-z.]+)\]\]?", line):
            table = head[1] if not line.startswith("[[") else head[1] + "[0]"
        elif named := re.match(r"  ([A-Za-z_][\w.]*)( = .*)?$", line):
            key = f"{table}.{named[1]}" if table else named[1]
            found[key] = [named[2][3:]] if named[2] and "..." not in named[2] else []
        elif key and line.startswith("      "):
            found[key] += re.findall(r'"[^" ]*"', line)
    return found
