"""Damage to any file: bytes, lines, encodings, packing and names. What JSON, CSV and MEDS have of their own is beside."""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable

from fuzzing.deliveries import Files
from fuzzing.values import NAMES

Damage = Callable[[random.Random, Files], str]
"""Damages the files in place; gives what was done, for people."""


def pick(rng: random.Random, files: Files, *endings: str) -> str:
    """One of the files, of those with these endings if there are any."""
    there = sorted(files)
    return rng.choice([name for name in there if name.lower().endswith(endings)] if endings else there)


def _place(rng: random.Random, data: bytes) -> int:
    return rng.randrange(len(data) + 1)


def flip_bits(rng: random.Random, files: Files) -> str:
    """Some bits."""
    name = pick(rng, files)
    data = bytearray(files[name])
    number = rng.choice([1, 1, 1, 3, 30]) if data else 0
    for _ in range(number):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    files[name] = bytes(data)
    return f"{number} bits of {name}"


def truncate(rng: random.Random, files: Files) -> str:
    """The end is missing."""
    name = pick(rng, files)
    files[name] = files[name][: _place(rng, files[name])]
    return f"{name} ends at {len(files[name])}"


def behead(rng: random.Random, files: Files) -> str:
    """The beginning is missing."""
    name = pick(rng, files)
    at = _place(rng, files[name]) if rng.random() < 0.5 else min(len(files[name]), rng.randrange(40))
    files[name] = files[name][at:]
    return f"{name} starts at {at}"


def cut_out(rng: random.Random, files: Files) -> str:
    """Some bytes in the middle are missing, zero or there twice."""
    name = pick(rng, files)
    data = files[name]
    at, size = _place(rng, data), rng.choice([1, 5, 100, 4096])
    middle = data[at : at + size]
    how = rng.choice(["gone", "zero", "twice"])
    put = {"gone": b"", "zero": b"\0" * len(middle), "twice": middle * 2}[how]
    files[name] = data[:at] + put + data[at + size :]
    return f"{len(middle)} bytes of {name} at {at} {how}"


def put_in(rng: random.Random, files: Files) -> str:
    """Bytes that do not belong there."""
    name = pick(rng, files)
    junk = rng.choice(
        [b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b'"', b"'", b"\\", b"{", b"}", b"[", b",", b"\r", b"\n", b"\n\n\n", b"\x1a",
         b"\xc3", b"\xed\xa0\x80", b"\xe2\x80\xa8", b"\x85", b"\x0b\x0c", b"x" * 10_000_000, b"\n" * 100_000,
         rng.randbytes(50), b"<html></html>", b"\n\0\n", b"\n\xff\n"]
    )  # fmt: skip
    data = files[name]
    at = rng.choice([0, len(data), _place(rng, data), _place(rng, data), data.find(b"\n") + 1])
    files[name] = data[:at] + junk + data[at:]
    return f"{junk[:12]!r} ({len(junk)} bytes) into {name} at {at}"


def lines(rng: random.Random, files: Files) -> str:
    """Lines twice, in another order, missing, empty, or half."""
    name = pick(rng, files)
    found = files[name].split(b"\n")
    at = rng.randrange(len(found))
    how = rng.choice(["twice", "all twice", "shuffled", "reversed", "gone", "blank ones", "joined", "broken", "many"])
    if how == "twice":
        found.insert(rng.randrange(len(found)), found[at])
    elif how == "all twice":
        found += found
    elif how == "shuffled":
        rng.shuffle(found)
    elif how == "reversed":
        found.reverse()
    elif how == "gone":
        del found[at]
    elif how == "blank ones":
        for _ in range(3):
            found.insert(rng.randrange(len(found) + 1), rng.choice([b"", b" ", b"\t", b"\r", b"\xc2\xa0"]))
    elif how == "joined" and len(found) > 1:
        found[at : at + 2] = [rng.choice([b"", b" ", b","]).join(found[at : at + 2])]
    elif how == "broken":
        line = found[at]
        middle = _place(rng, line)
        found[at : at + 1] = [line[:middle], line[middle:]]
    elif how == "many":
        found[at : at + 1] = [found[at]] * 3000
    files[name] = b"\n".join(found)
    return f"lines of {name} {how} (at {at + 1})"


def line_ends(rng: random.Random, files: Files) -> str:
    """Other line ends, everywhere or here and there."""
    name = pick(rng, files)
    end = rng.choice([b"\r\n", b"\r", b"\n\r", b"\r\r\n", b"\x0b", b"\x0c", b"\x1e", b"\xc2\x85", b"\xe2\x80\xa8"])
    found = files[name].split(b"\n")
    mixed = rng.random() < 0.5
    ends = [end if not mixed or rng.random() < 0.3 else b"\n" for _ in found[1:]] + [b""]
    files[name] = b"".join(line + e for line, e in zip(found, ends, strict=True))
    return f"{name} has {'some ' if mixed else ''}line ends {end!r}"


def encoding(rng: random.Random, files: Files) -> str:
    """Another encoding, for all of it or from some place on."""
    name = pick(rng, files)
    text = files[name].decode("utf-8", "replace")
    how = rng.choice(
        ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig", "latin-1", "cp037", "shift-jis", "utf-7"]
    )
    text = text.replace("a", "ä", 50) if rng.random() < 0.5 else text
    at = rng.choice([0, 0, 0, text.find("\n") + 1, rng.randrange(len(text) + 1)])
    files[name] = text[:at].encode() + text[at:].encode(how, "replace")
    return f"{name} is {how} from {at} on"


def empty(rng: random.Random, files: Files) -> str:
    """Nothing, or nothing but blanks."""
    name = pick(rng, files)
    files[name] = rng.choice([b"", b"\n", b" \n\t\r\n", b"\0" * 100, b"\xef\xbb\xbf", b"\xef\xbb\xbf\n", b"\n" * 5])
    return f"{name} is {files[name][:8]!r}"


def swap(rng: random.Random, files: Files) -> str:
    """The content of another file."""
    one, two = pick(rng, files), pick(rng, files)
    files[one] = files[two]
    return f"{one} holds {two}"


def gzipped(rng: random.Random, files: Files) -> str:
    """Packed, and the packed bytes damaged in some way or in none."""
    name = pick(rng, files)
    data = files.pop(name)
    packed = gzip.compress(data, mtime=0)
    half = len(data) // 2
    how = rng.choice(
        ["well", "well", "cut", "cut", "garbage", "members", "members garbage", "bits", "zeros", "twice", "unpacked",
         "unnamed", "no end", "head only", "bomb", "crc", "cut member"]
    )  # fmt: skip
    members = gzip.compress(data[:half], mtime=0) + gzip.compress(data[half:], mtime=0)
    flipped = bytearray(packed)
    flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
    files[name if how == "unnamed" else f"{name}.gz"] = {
        "well": packed,
        "unnamed": packed,
        "cut": packed[: rng.randrange(len(packed))],
        "garbage": packed + rng.randbytes(60),
        "members": members,
        "members garbage": members + b"x",
        "cut member": members[:-20],
        "bits": bytes(flipped),
        "zeros": packed + b"\0" * 600,
        "twice": gzip.compress(packed, mtime=0),
        "unpacked": data,
        "no end": packed[:-8],
        "head only": packed[:10],
        "bomb": bomb() if how == "bomb" else b"",
        "crc": packed[:-8] + b"\1\2\3\4" + packed[-4:],
    }[how]
    return f"{name} gzipped: {how}"


def bomb(size: int = 300 << 20) -> bytes:
    """A gzip of nothing but zeros."""
    import zlib

    packer = zlib.compressobj(9, wbits=31)
    block = b"\0" * (1 << 20)
    return b"".join(packer.compress(block) for _ in range(size >> 20)) + packer.flush()


def rename(rng: random.Random, files: Files) -> str:
    """A name that nobody should give a file."""
    name = pick(rng, files)
    ending = name.rpartition("/")[2].partition(".")[2]
    if rng.random() < 0.3:  # only the last part or its case
        fresh = rng.choice([name.upper(), name + ".txt", name.rpartition(".")[0], f"sub/{name}", f"{name}.{ending}"])
    else:
        fresh = rng.choice(NAMES).replace("{x}", ending).replace("{X}", ending.upper())
    copied = rng.random() < 0.3
    files[fresh] = files[name] if copied else files.pop(name)
    return f"{name} {'copied to' if copied else 'called'} {fresh!r}"


def remove(rng: random.Random, files: Files) -> str:
    """A file is not there."""
    name = pick(rng, files)
    if len(files) > 1:
        del files[name]
    return f"without {name}"


ANY: list[Damage] = [
    flip_bits, flip_bits, truncate, behead, cut_out, put_in, put_in, lines, lines, line_ends, encoding, empty, swap,
    gzipped, gzipped, rename, remove,
]  # fmt: skip
"""What can be done to any file, as often as it is drawn."""
