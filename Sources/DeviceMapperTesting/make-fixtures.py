#!/usr/bin/env python3
"""Derives the fixtures of the tests against kernel vectors from a folder of kernel vectors.

    make-fixtures.py VECTORS [FIXTURES]

See Fixtures/README.md. Every image is built again from what is written and compared with the one
in VECTORS, byte for byte.
"""
import gzip
import hashlib
import json
import pathlib
import re
import struct
import sys

SECTOR = 512
BITS = 1024  # where the bits of a mirror log begin
KINDS = ("snap-", "merge-", "mirror-")
CASE_KEYS = ("name", "about", "deterministic", "devices", "images")
LINE = re.compile(rb"([^\n]+?) sector (\d+)\n")


def sector(label, number):
    """One sector under a label; None stands for zeros."""
    if label is None:
        return bytes(SECTOR)
    line = f"{label} sector {number}\n".encode()
    return (line * (SECTOR // len(line) + 1))[:SECTOR]


def parse(content):
    """Label and number of a sector; None if it is metadata."""
    if content == bytes(SECTOR):
        return None, 0
    match = LINE.match(content)
    if match:
        label, number = match[1].decode(), int(match[2])
        if sector(label, number) == content:
            return label, number
    return None


def runs_of(image):
    """An image as runs [first sector, count, label, number of the first]; zeros and metadata are
    left out, and so is the number where it is that of the sector."""
    runs = []
    for index in range(len(image) // SECTOR):
        found = parse(image[index * SECTOR : (index + 1) * SECTOR])
        if not found or found[0] is None:
            continue
        label, number = found
        last = runs[-1] if runs else None
        if last and last[0] + last[1] == index and last[2] == label and last[3] + last[1] == number:
            last[1] += 1
        else:
            runs.append([index, 1, label, number])
    return [run[:3] if run[3] == run[0] else run for run in runs]


def build(sectors, runs, store=None, log=None):
    """The image that runs and the metadata of a store or a mirror log describe."""
    image = bytearray(sectors * SECTOR)
    for first, count, label, *number in runs:
        start = number[0] if number else first
        content = b"".join(sector(label, start + index) for index in range(count))
        image[first * SECTOR : (first + count) * SECTOR] = content
    if store:
        chunk = store["chunk_size"] * SECTOR
        struct.pack_into("<4sIII", image, 0, b"SnAp", store["valid"], 1, store["chunk_size"])
        stride = chunk // 16 + 1
        for area, exceptions in enumerate(store["exceptions"]):
            start = (1 + area * stride) * chunk
            for index, (old, new) in enumerate(exceptions):
                struct.pack_into("<QQ", image, start + 16 * index, old, new)
    if log:
        struct.pack_into("<4sIQ", image, 0, b"rRiM", 2, log["regions"])
        bits = bytes.fromhex(log["bits"])
        image[BITS : BITS + len(bits)] = bits
    return bytes(image)


def store_of(metadata):
    assert metadata["magic"] == "SnAp" and metadata["version"] == 1
    return {key: metadata[key] for key in ("valid", "chunk_size", "exceptions")}


def log_of(metadata, image, runs):
    """Count of regions, and the bytes from the first bit to the last byte that isn't as it was:
    words that a mirror grown shorter no longer needs included."""
    assert metadata["magic"] == "rRiM" and metadata["version"] == 2
    before = build(len(image) // SECTOR, runs)
    end = max(index for index in range(len(image)) if image[index] != before[index]) + 1
    log = {"regions": metadata["nr_regions"], "bits": image[BITS:end].hex()}
    assert log["bits"].startswith(metadata["bitset"])
    return log


def reduced_image(folder, case, stage, name, info):
    """What the tests need of an image; those of data are in the case's `contents`."""
    reduced = {"sha256": info["sha256"]}
    if "file" not in info:
        return reduced
    image = gzip.decompress((folder / info["file"]).read_bytes())
    kind, sectors = (case["images"][name][key] for key in ("kind", "sectors"))
    assert len(image) == sectors * SECTOR
    store = log = None
    if kind == "cow":
        runs, store = runs_of(image), store_of(info["metadata"])
        reduced |= {"store": store, "runs": runs}
    elif kind == "log":
        runs = case["images"][name]["initial"]
        log = log_of(info["metadata"], image, runs)
        reduced |= {"log": log}
    else:
        runs = case["contents"][info["sha256"]]
    where = f"{case['name']} {stage['name']} {name}"
    assert build(sectors, runs, store, log) == image, f"{where}: not what was described"
    assert hashlib.sha256(image).hexdigest() == info["sha256"], where
    return reduced


def reduced_case(folder, case):
    stages = []
    for stage in case["stages"]:
        images = {
            name: reduced_image(folder, case, stage, name, info)
            for name, info in stage["images"].items()
        }
        more = {"scratch": True} if stage.get("scratch") else {}
        stages.append({"name": stage["name"], **more, "ops": stage["ops"], "images": images})
    for sha256, runs in case["contents"].items():
        sectors = max(run[0] + run[1] for run in runs)
        assert hashlib.sha256(build(sectors, runs)).hexdigest() == sha256
    return {
        **{key: case[key] for key in CASE_KEYS}, "contents": case["contents"], "stages": stages,
    }


def formatted(value, indent=0):
    """JSON with short values on one line, and lists of them as full lines."""
    short = json.dumps(value)
    if len(short) + indent <= 100 or not isinstance(value, (list, dict)):
        return short
    pad = " " * (indent + 1)
    if isinstance(value, dict):
        items = [f"{json.dumps(key)}: {formatted(item, indent + 1)}" for key, item in value.items()]
        return "{\n" + ",\n".join(pad + item for item in items) + "\n" + " " * indent + "}"
    items = [formatted(item, indent + 1) for item in value]
    if any(len(item) > 40 for item in items):
        return "[\n" + ",\n".join(pad + item for item in items) + "\n" + " " * indent + "]"
    lines = [pad]
    for position, item in enumerate(items):
        text = item + ("," if position + 1 < len(items) else "")
        if len(lines[-1]) + len(text) > 100:
            lines[-1] = lines[-1].rstrip()
            lines.append(pad)
        lines[-1] += text + " "
    return "[\n" + "\n".join(lines).rstrip() + "\n" + " " * indent + "]"


def main():
    folder = pathlib.Path(sys.argv[1])
    here = pathlib.Path(__file__).parent / "Fixtures"
    target = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else here
    manifest = json.loads((folder / "manifest.json").read_text())
    cases = [case for case in manifest["cases"] if case["name"].startswith(KINDS)]
    for case in cases:
        (target / f"{case['name']}.json").write_text(formatted(reduced_case(folder, case)) + "\n")
    summary = {key: manifest[key] for key in ("kernel", "targets")}
    summary["cases"] = [case["name"] for case in cases]
    (target / "vectors.json").write_text(formatted(summary) + "\n")


main()
