"""What a recipe does to a folder of sound inputs. A recipe is a dict of text and numbers alone:

kind     of the config (small_inputs.KINDS)
verb     check, run, resume, simulate or raw (`arguments` is then the whole command line)
steps    [operation, argument...], each a method of Kitchen
expect   exit codes, where only these are right

It says all: a found case stays one whatever becomes of the generator.
"""

import os
import struct
import zipfile
from pathlib import Path

import h5py
import numpy as np
from small_inputs import config_of, toml_of

CARD = "extra/ptyle_card.json"

DTYPES = (
    "u1 i1 u2 >u2 i4 >u4 u8 i8 f2 f4 >f8 f8 g c8 c16 bool S5 text enum reference opaque vlen pair"
    " whole_complex complex_of_three array"
).split()
STORES = (
    "chunked gzip shuffle fletcher scaleoffset lzf large_chunk early never_written extendable"
    " virtual virtual_missing virtual_part external external_missing compact nbit unknown_filter"
).split()
LINKS = "dangling itself outside outside_missing outside_itself cycle group type_only null".split()
ATTRIBUTES = "nan text vlen array empty number huge reference compound".split()


def dtype_of(name):
    special = {
        "text": h5py.string_dtype(),
        "enum": h5py.enum_dtype({"a": 0, "b": 1}, basetype="i4"),
        "reference": h5py.ref_dtype,
        "opaque": np.dtype("V7"),
        "vlen": h5py.vlen_dtype(np.int32),
        "pair": np.dtype([("x", "f8"), ("n", "i4")]),
        "whole_complex": np.dtype([("r", "i4"), ("i", "i4")]),
        "complex_of_three": np.dtype([("r", "f4"), ("i", "f4"), ("j", "f4")]),
        "array": np.dtype(("f4", (3,))),
    }
    return special.get(name) or np.dtype(name)


def fnv1a(values):
    """The checksum beside every dataset of a checkpoint: without it nothing else is looked at."""
    total = 14695981039346656037
    for byte in np.ascontiguousarray(values).tobytes():
        total = ((total ^ byte) * 1099511628211) & (2**64 - 1)
    return struct.unpack("q", struct.pack("Q", total))[0]


class Kitchen:
    """Applies the steps of one recipe to `folder`."""

    def __init__(self, folder, recipe):
        self.folder = Path(folder)
        self.keys = config_of(recipe["kind"])
        self.replaced = False  # the config, by something else
        self.after = []  # what is done to the config's text
        self.options = []
        self.arguments = None
        self.environment = {}
        for name, *arguments in recipe["steps"]:
            getattr(self, name)(*arguments)
        text = toml_of(self.keys).encode("utf-8", "surrogatepass")
        for change in self.after:
            text = change(text)
        if not self.replaced:
            (self.folder / "case.toml").write_bytes(text)

    # --- config and command line ---

    def key(self, name, text):
        self.keys[name] = text

    def drop(self, name):
        self.keys.pop(name, None)

    def set(self, text):
        self.options += ["--set", text]

    def line(self, text):
        self.after.append(lambda old: old + text.encode("utf-8", "surrogatepass") + b"\n")

    def first_line(self, text):
        self.after.append(lambda old: text.encode("utf-8", "surrogatepass") + b"\n" + old)

    def flip_config(self, places):
        def change(old):
            new = bytearray(old)
            for place, bit in places:
                new[int(place * len(new))] ^= 1 << bit
            return bytes(new)

        self.after.append(change)

    def cut_config(self, share):
        self.after.append(lambda old: old[: int(share * len(old))])

    def option(self, *words):
        self.options += words

    def command(self, *words):
        self.arguments = list(words)

    def variable(self, name, value):
        self.environment[name] = value

    # --- files as bytes ---

    def truncate(self, name, share):
        path = self.folder / name
        os.truncate(path, int(share * path.stat().st_size))

    def flip(self, name, places):
        path = self.folder / name
        data = bytearray(path.read_bytes())
        for place, bit in places:
            data[int(place * len(data))] ^= 1 << bit
        path.write_bytes(data)

    def overwrite(self, name, share, text):
        path = self.folder / name
        data = bytearray(path.read_bytes())
        begin = int(share * len(data))
        new = bytes.fromhex(text)
        data[begin : begin + len(new)] = new
        path.write_bytes(data)

    def move_bytes(self, name, source, target, count):
        path = self.folder / name
        data = bytearray(path.read_bytes())
        begin, end = int(source * len(data)), int(target * len(data))
        data[end : end + count] = data[begin : begin + count]
        path.write_bytes(data)

    def append(self, name, text):
        with open(self.folder / name, "ab") as file:
            file.write(bytes.fromhex(text))

    def replace(self, name, how):
        path = self.folder / name
        self.replaced |= name == "case.toml"
        if path.is_file() or path.is_symlink():
            path.unlink()
        if how == "folder":
            path.mkdir(exist_ok=True)
        elif how == "empty":
            path.touch()
        elif how == "pipe":
            os.mkfifo(path)
        elif how == "loop":
            path.symlink_to(path.name)
        elif how == "text":
            path.write_text("[data]\nfile = 3\n" * 20)
        elif how != "nothing":  # another file of the folder
            path.write_bytes((self.folder / how).read_bytes())

    # --- HDF5 ---

    def _open(self, file):
        return h5py.File(self.folder / file, "a")

    @staticmethod
    def _rewrite(file, name, **options):
        kept = dict(file[name].attrs)
        del file[name]
        made = file.create_dataset(name, **options)
        for key, value in kept.items():
            made.attrs[key] = value
        return made

    @staticmethod
    def _sum(file, name):
        if "checksum" in file[name].attrs:
            try:
                file[name].attrs["checksum"] = fnv1a(file[name][()])
            except (TypeError, ValueError, OSError):
                pass  # of what has no bytes

    def delete(self, file, name):
        with self._open(file) as out:
            if name in out:
                del out[name]

    def array(self, file, name, dtype, shape, fill):
        kind = dtype_of(dtype)
        with self._open(file) as out:
            if name not in out:
                return
            huge = np.prod([float(n) for n in shape], initial=1.0) > 1e7
            if huge or dtype in ("text", "reference", "vlen", "opaque", "S5", "enum", "array"):
                chunks = tuple(min(n, 4) or 1 for n in shape) or None
                self._rewrite(out, name, shape=tuple(shape), dtype=kind, chunks=chunks)
                return
            values = np.zeros(shape, kind)
            if fill != "zeros" and kind.kind in "uifc":
                with np.errstate(all="ignore"):
                    whole = np.random.default_rng(1).integers(0, 9, shape)
                    values = whole.astype(kind) if fill == "random" else values
                    if fill in ("nan", "inf", "-1", "1e30", "65535"):
                        values = values + np.array(float(fill)).astype(kind)
                    if fill == "one nan" and kind.kind in "fc" and values.size:
                        values.flat[values.size // 2] = np.nan
            self._rewrite(out, name, data=values)
            self._sum(out, name)

    def cast(self, file, name, dtype):
        with self._open(file) as out:
            if name in out and out[name].dtype.kind in "uifcb":
                with np.errstate(all="ignore"):
                    values = out[name][()]
                    target = dtype_of(dtype)
                    if values.dtype.kind == "c" and target.kind != "c":
                        values = values.real
                    self._rewrite(out, name, data=np.asarray(values).astype(target))
                self._sum(out, name)

    def poke(self, file, name, place, value):
        with self._open(file) as out:
            if name in out and out[name].size:
                values = out[name][()]
                with np.errstate(all="ignore"):
                    values = np.array(values)
                    new = np.array(float(value)).astype(values.dtype)
                    values.flat[int(place * values.size)] = new
                out[name][()] = values
                self._sum(out, name)

    def store(self, file, name, how):
        with self._open(file) as out:
            if name not in out or not out[name].shape:
                return
            values = out[name][()]
            shape, dtype = values.shape, values.dtype
            chunk = tuple(max(1, n // 2) for n in shape)
            anything = (None,) * len(shape)
            options = {
                "chunked": {"chunks": chunk},
                "gzip": {"chunks": chunk, "compression": "gzip"},
                "shuffle": {"chunks": chunk, "shuffle": True, "compression": "gzip"},
                "fletcher": {"chunks": chunk, "fletcher32": True},
                "lzf": {"chunks": chunk, "compression": "lzf"},
                "extendable": {"chunks": chunk, "maxshape": anything},
                "large_chunk": {
                    "chunks": tuple(4 * n for n in shape),
                    "maxshape": anything,
                },
            }
            if how == "scaleoffset" and dtype.kind in "ui":
                self._rewrite(out, name, data=values, chunks=chunk, scaleoffset=0)
            elif how in options:
                self._rewrite(out, name, data=values, **options[how])
            elif how in ("never_written", "early"):
                self._rewrite(out, name, shape=shape, dtype=dtype, chunks=chunk, fillvalue=0)
            elif how in ("external", "external_missing"):
                raw = self.folder / "raw.bin"
                if how == "external":
                    raw.write_bytes(values.tobytes()[: values.nbytes // 2])
                self._rewrite(
                    out, name, shape=shape, dtype=dtype, external=[(str(raw), 0, values.nbytes)]
                )
            elif how.startswith("virtual"):
                with h5py.File(self.folder / "source.h5", "w") as source:
                    source["s"] = values
                layout = h5py.VirtualLayout(shape=shape, dtype=dtype)
                part = shape[0] // 2 if how == "virtual_part" else shape[0]
                where = "gone.h5" if how == "virtual_missing" else "source.h5"
                layout[:part] = h5py.VirtualSource(where, "s", shape=shape)[:part]
                del out[name]
                out.create_virtual_dataset(name, layout)
            elif how in ("compact", "nbit", "unknown_filter"):
                plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
                if how == "compact" and values.nbytes < 60000:
                    plist.set_layout(h5py.h5d.COMPACT)
                elif how != "compact":
                    plist.set_chunk(chunk)
                if how == "unknown_filter":  # optional: written as it is, and named in the file
                    plist.set_filter(32999, h5py.h5z.FLAG_OPTIONAL, (1, 2))
                elif how == "nbit":
                    plist.set_nbit() if hasattr(plist, "set_nbit") else None
                del out[name]
                space = h5py.h5s.create_simple(shape)
                made = h5py.h5d.create(
                    out.id, name.encode(), h5py.h5t.py_create(dtype), space, plist
                )
                h5py.Dataset(made)[()] = values

    def link(self, file, name, how):
        with self._open(file) as out:
            if name in out:
                del out[name]
            if how == "dangling":
                out[name] = h5py.SoftLink("/nowhere/at/all")
            elif how == "itself":
                out[name] = h5py.SoftLink("/" + name)
            elif how == "outside":
                out[name] = h5py.ExternalLink("near.h5", "/" + name)
            elif how == "outside_missing":
                out[name] = h5py.ExternalLink("gone.h5", "/" + name)
            elif how == "outside_itself":
                out[name] = h5py.ExternalLink(file, "/" + name)
            elif how == "cycle":
                out.create_group(name)[name.split("/")[-1]] = out["/"]
            elif how == "group":
                out.create_group(name)
            elif how == "type_only":
                out[name] = np.dtype("f4")
            elif how == "null":
                out[name] = h5py.Empty("f4")

    def attribute(self, file, name, key, how):
        with self._open(file) as out:
            if name not in out:
                return
            values = {
                "nan": np.nan,
                "text": "a word",
                "vlen": np.array([np.arange(3), np.arange(2)], dtype=object),
                "array": np.arange(5.0),
                "empty": h5py.Empty("f8"),
                "number": 7,
                "huge": 1e300,
                "reference": out.ref,
                "compound": np.zeros(1, dtype_of("pair")),
            }
            if how == "vlen":
                out[name].attrs.create(key, values[how], dtype=h5py.vlen_dtype(np.int64))
            elif how == "reference":
                out[name].attrs.create(key, values[how], dtype=h5py.ref_dtype)
            else:
                out[name].attrs[key] = values[how]

    def attribute_text(self, file, name, key, text):
        with self._open(file) as out:
            if name in out:
                out[name].attrs[key] = text

    def drop_attribute(self, file, name, key):
        with self._open(file) as out:
            if name in out and key in out[name].attrs:
                del out[name].attrs[key]

    # --- priors: a zip without compression ---

    def _records(self, change):
        path = self.folder / "phase.pt"
        with zipfile.ZipFile(path) as old:
            records = [(name, old.read(name)) for name in old.namelist()]
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as new:
            for name, data in records:
                data = change(name, data)
                if data is not None:
                    new.writestr(name, data)

    def card_text(self, text):
        encoded = text.encode("utf-8", "surrogatepass")
        self._records(lambda name, data: encoded if name.endswith(CARD) else data)

    def drop_record(self, part):
        self._records(lambda name, data: None if part in name else data)

    def record_text(self, part, text):
        self._records(lambda name, data: text.encode() if part in name else data)
