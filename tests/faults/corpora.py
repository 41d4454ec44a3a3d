"""Corpus files for the fault campaign: valid files of every format, hostile and mutated files."""

import bz2
import gzip
import json
import lzma
import struct

import polib
import pyarrow
from datasets import Dataset
from pyarrow import parquet

MB = 2**20
PAIRS = [(f"Das Haus Nummer {n} ist größer.", f"House number {n} is bigger.") for n in range(4)]


# Valid files of every format


def tsv(pairs=PAIRS):
    return "".join(f"{a}\t{b}\n" for a, b in pairs).encode()


def csv(pairs=PAIRS):
    rows = "".join(f'"{a}, ""so""",{b}\n' for a, b in pairs)
    return f"source,target\n{rows}".encode()


def records(pairs=PAIRS):
    return [{"translation": {"de": a, "en": b}, "score": 0.5} for a, b in pairs]


def json_lines():
    return "".join(json.dumps(record) + "\n" for record in records()).encode()


def json_array():
    return json.dumps(records(), ensure_ascii=False, indent=1).encode()


def tmx():
    units = "".join(
        f'<tu><prop type="s">1</prop><tuv xml:lang="de"><seg>{a} <ph>x</ph>&amp;</seg></tuv>'
        f'<tuv xml:lang="en"><seg>{b}</seg></tuv></tu>\n'
        for a, b in PAIRS
    )
    head = '<?xml version="1.0" encoding="utf-8"?>\n<tmx version="1.4"><header/><body>\n'
    return f"{head}{units}</body></tmx>\n".encode()


def xliff():
    units = "".join(
        f'<trans-unit id="{n}"><source>{a}</source><target>{b}</target></trans-unit>\n'
        for n, (a, b) in enumerate(PAIRS)
    )
    return (
        '<?xml version="1.0"?>\n<xliff version="1.2"><file source-language="de" '
        f'target-language="en"><body>\n{units}</body></file></xliff>\n'
    ).encode()


def catalogue(translations=PAIRS, language="en"):
    file = polib.POFile()
    file.metadata = {"Content-Type": "text/plain; charset=utf-8", "Language": language}
    for number, (a, b) in enumerate(translations):
        file.append(polib.POEntry(msgid=a, msgstr=b, msgctxt="c" if number % 2 else None))
    file.append(polib.POEntry(msgid="ein", msgid_plural="viele", msgstr_plural={0: "1", 1: "n"}))
    return file


def fluent(texts):
    lines = "".join(f"key-{n} = {text} {{ $x }}\n    .title = T\n" for n, text in enumerate(texts))
    return (lines + 'sel = { $n ->\n    [one] eins\n   *[other] { "viele" }\n  }\n').encode()


def parquet_file():
    sink = pyarrow.BufferOutputStream()
    table = pyarrow.table({"source": [a for a, _ in PAIRS], "target": [b for _, b in PAIRS]})
    parquet.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def saved_dataset(folder):
    """Return the files of a dataset that `datasets` saves."""
    sides = {"source": [a for a, _ in PAIRS], "target": [b for _, b in PAIRS]}
    Dataset.from_dict(sides).save_to_disk(str(folder))
    return {f"saved/{path.name}": path.read_bytes() for path in folder.iterdir()}


def zstd(data):
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


def valid_files(folder):
    """Return a corpus of every format as a mapping from file names to contents."""
    sides = [list(side) for side in zip(*PAIRS, strict=True)]
    german, english = ("".join(f"{text}\n" for text in side).encode() for side in sides)
    german_catalogue = str(
        catalogue([(f"k{n}", text) for n, text in enumerate(sides[0])], "de")
    ).encode()
    english_catalogue = str(
        catalogue([(f"k{n}", text) for n, text in enumerate(sides[1])])
    ).encode()
    return [
        {"x.tsv": tsv()},
        {"x.txt": tsv([("source", "target"), *PAIRS])},
        {"x.tsv": tsv().decode().encode("utf-16")},
        {"x.csv": csv()},
        {"x.jsonl": json_lines()},
        {"x.json": json_array()},
        {"x.json": json_array().decode().encode("utf-16-le")},
        {"x.parquet": parquet_file()},
        {"x.tmx": tmx()},
        {"x.tmx": tmx().decode().replace("utf-8", "utf-16").encode("utf-16")},
        {"x.xlf": xliff()},
        {"x.po": str(catalogue()).encode()},
        {"x.mo": catalogue().to_binary()},
        {"a.txt": german, "b.txt": english},
        {"a.po": german_catalogue, "b.po": english_catalogue},
        {"a.ftl": fluent(sides[0]), "b.ftl": fluent(sides[1])},
        saved_dataset(folder),
        {"x.tsv.gz": gzip.compress(tsv())},
        {"x.csv.bz2": bz2.compress(csv())},
        {"x.jsonl.xz": lzma.compress(json_lines())},
        {"x.tmx.zst": zstd(tmx())},
    ]


# Hostile files

HEAD = '<tmx version="1.4"><body><tu><tuv xml:lang="de"><seg>ja</seg></tuv><tuv xml:lang="en">'
CODECS = (
    *("hex", "zlib", "rot13", "bz2", "base64", "uu", "quopri", "idna", "punycode", "utf-7"),
    *("unicode_escape", "raw_unicode_escape", "undefined", "mbcs", "klingon", "utf-16", "u" * 300),
)


def tmx_of(segment, encoding="utf-8"):
    head = f'<?xml version="1.0" encoding="{encoding}"?>{HEAD}'
    return f"{head}{segment}</tuv></tu></body></tmx>".encode()


def po_of(charset):
    head = f'msgid ""\nmsgstr "Content-Type: text/plain; charset={charset}\\n"\n\n'
    return f'{head}msgid "größer"\nmsgstr "bigger"\n'.encode()


def mo_of(charset):
    texts = {"": f"Content-Type: text/plain; charset={charset}\n", "größer": "bigger"}
    file = polib.POFile()
    file.metadata = {"Content-Type": texts[""].partition(": ")[2].strip()}
    file.append(polib.POEntry(msgid="größer", msgstr="bigger"))
    return file.to_binary()


def mo_with(count, length):
    """A compiled catalogue whose messages all point to the same long text."""
    table = struct.pack("<2I", length, 28 + 8 * count) * count
    head = struct.pack("<7I", 0x950412DE, 0, count, 28, 28, 0, 0)
    return head + table + b"a" * (length + 1)


def hostile_files():
    """Yield descriptions and contents of small hostile files."""
    for codec in CODECS:
        yield f"declares {codec[:20]}", {"x.tmx": tmx_of(f"<seg>{codec}</seg>", codec)}
        broken = tmx_of("<seg>a</b></seg>", codec)
        yield f"broken, declares {codec[:20]}", {"x.tmx": broken}
        yield f"broken xliff in {codec[:20]}", {"x.xlf": broken}
        yield f"catalogue in {codec[:20]}", {"x.po": po_of(codec)}
        yield f"compiled catalogue in {codec[:20]}", {"x.mo": mo_of(codec)}
    for depth in (200, 990, 100_000):
        nested = "<seg>" * depth + "yes" + "</seg>" * depth
        yield f"{depth} segments in each other", {"x.tmx": tmx_of(nested)}
        deep = b"key = " + b"{" * depth + b'"x"' + b"}" * depth + b"\nkey2 = y\n"
        yield f"{depth} placeables in each other", {"a.ftl": deep, "b.ftl": deep}
        yield f"{depth} lists", {"x.jsonl": b"[" * depth + b"]" * depth + b"\n"}
        nested = b'{"source": ' + b"[" * depth + b"]" * depth + b', "target": "x"}'
        yield f"{depth} lists in an object", {"x.jsonl": nested}
        yield f"{depth} objects in an array", {"x.json": b"[" + nested + b"]"}
    for escape in (b"\\U110000", b"\\uD800", b"\\U00DFFF", b"\\u0000", b"\\u202e"):
        file = b'key = { "' + escape + b'" }\nkey2 = good\n'
        yield f"Fluent's {escape!r}", {"a.ftl": file, "b.ftl": file}
    for value in (
        "1e999",
        "-1e999",
        "9" * 5000,
        "NaN",
        '"\\ud800"',
        '"\\u0000"',
        "{}",
        '"\\u202e"',
    ):
        for line in (f'{{"source": {value}, "target": "x"}}', f'{{"de": "x", {value!s}: "y"}}'):
            yield f"JSON's {value[:9]}", {"x.jsonl": f"{line}\n".encode() * 3}
            yield f"an array of {value[:9]}", {"x.json": f"[{line}]".encode()}
    keys = json.dumps({f"key {n}": "x" for n in range(4000)}).encode()
    yield "4,000 keys", {"x.jsonl": (keys + b"\n") * 20}
    yield "one column twice", {"x.csv": b"source,source,target\na,b,c\n"}
    yield "one column twice", {"x.tsv": b"source\ttarget\ttarget\na\tb\tc\n"}
    yield "many combining marks", {"x.tsv": b"a\tb" + "\u0301\u0323".encode() * 200_000 + b"\n"}
    yield "characters without width", {"x.tsv": "\u200b \u2060 ".encode() * 100_000 + b"a\tb\n"}
    yield "text escaped many times", {"x.tsv": b"&" + b"amp;" * 200_000 + b"lt;\tb\n"}
    yield "a numeral of a format", {"x.tsv": b"%" + b"0" * 900_000 + b"!\tb\n"}
    yield "a rule of underscores", {"x.tsv": b"_" * 900_000 + b"!\tb\n"}
    yield "many columns", {"x.tsv": b"ab\t" * 300_000 + b"\n", "y.tsv": b""}
    yield "many quoted columns", {"x.csv": (b'"ab",' * 200_000 + b"\n") * 3}
    yield "open quotes", {"x.csv": (b'"a\n' + b'"""",\n' * 99) * 300}
    yield "many open tags", {"x.tmx": b"<tu '\"" * 300_000}
    yield "a long line", {"x.tsv": b"a\tb\n" + b"a" * (2 * MB) + b"\tb\nc\td\n"}
    yield (
        "a long line in UTF-16",
        {"x.tsv": ("a\tb\n" + "a" * (2 * MB) + "\nc\td\n").encode("utf-16")},
    )
    yield "old Mac", {"x.tsv": b"ja\tyes\rnein\tno\r" * 10}
    yield "a carriage return alone", {"x.csv": b"source,target\nj\ra,yes\n" * 3}
    yield "old Mac", {"x.csv": b"ja,yes\rnein,no\r" * 10}
    yield "a terminal's commands", {"x.tsv": b"\x1b]0;x\x07\x1b[31m\xe2\x80\xae red\r\tb\tc\n" * 9}
    yield "a terminal's commands", {"x.jsonl": b'{"\\u001b[31m\\u202e": 1, "b": 2}\n' * 9}
    yield "a terminal's commands", {"x.csv": b"\x1b[31m\xe2\x80\xaex,\x9b31m\n" * 9}
    yield "a terminal's commands", {"x.tmx": '<tmx><\u202ea b="\u202e">'.encode()}
    yield "messages that overlap", {"x.mo": mo_with(50_000, 200_000)}
    yield "messages that overlap", {"x.mo": mo_with(2**32 - 1 >> 16, 1)}
    bad = pyarrow.array([b"\xff\xfe", b"a"]).cast(pyarrow.binary()).view(pyarrow.string())
    table = pyarrow.table({"source": bad, "target": bad})
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(table, sink)
    yield "Parquet in no encoding", {"x.parquet": sink.getvalue().to_pybytes()}
    two = pyarrow.table([bad.slice(1), bad.slice(1)], names=["source", "source"])
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(two, sink)
    yield "Parquet with a column twice", {"x.parquet": sink.getvalue().to_pybytes()}
    wide = pyarrow.table({f"c{n}": ["x"] for n in range(3000)})
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(wide, sink)
    yield "wide Parquet", {"x.parquet": sink.getvalue().to_pybytes()}
    for suffix, data in (
        ("gz", gzip.compress(tsv(PAIRS * 500))),
        ("bz2", bz2.compress(tsv(PAIRS * 500))),
        ("xz", lzma.compress(tsv(PAIRS * 500))),
        ("zst", zstd(tsv(PAIRS * 500))),
    ):
        yield f"half of .{suffix}", {f"x.tsv.{suffix}": data[: len(data) // 2]}
        yield f"no .{suffix}", {f"x.tsv.{suffix}": b"a\tb\n"}
        yield f"empty .{suffix}", {f"x.tsv.{suffix}": b""}
        middle = len(data) // 2
        damaged = data[:middle] + bytes(b ^ 255 for b in data[middle : middle + 9])
        yield f"damaged .{suffix}", {f"x.tsv.{suffix}": damaged + data[middle + 9 :]}


# Mutated files

SNIPPETS = (
    *(b"\0", b"\r", b"\n", b"\t", b'"', b'""', b"\\", b"{", b"}", b"[", b"]", b"<", b">", b"&"),
    *(b"\xff", b"\xfe\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc2"),
    *(b"&#0;", b"&#xd800;", b"&#x110000;", b"&nbsp;", b"<!--", b"]]>", b"<![CDATA[", b"</tu>"),
    *(b"<tu>", b"<seg>", b"</seg>", b"<?xml", b'encoding="hex"', b"<!DOCTYPE a [<!ENTITY b 'c'>]>"),
    *(b"\x1b[31m", b"\x07", b"\xe2\x80\xae", b"\xe2\x80\xa8", b"\xcc\x81" * 40, b"1e999"),
    *(b"\\ud800", b"\\u0000", b"9" * 5000, b"NaN", b"null", b"[" * 2000, b"{" * 2000, b"," * 2000),
    *(b"charset=hex", b"msgid", b'msgstr[9] "x"', b'msgstr "', b"#~ ", b"#| msgid", b"*[", b"->"),
    *(b'{ "\\U110000" }', b"sep=x\n", b"source\ttarget\n", b"\t" * 2000, b"\x00\x00\x00\x00"),
    *(b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"a" * 5000),
)


def mutate(data, rng, donors):
    """Make one to four random changes to a file."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        start = rng.randrange(len(data) + 1)
        end = min(len(data), start + rng.choice((1, 4, 30, 300)))
        kind = rng.randrange(7)
        if kind == 0 and data:
            flipped = bytearray(data)
            for _ in range(rng.choice((1, 3, 20))):
                flipped[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            data = bytes(flipped)
        elif kind == 1:
            data = data[:start]
        elif kind == 2:
            donor = rng.choice(donors)
            offset = rng.randrange(len(donor) + 1)
            data = data[:start] + donor[offset : offset + 200] + data[start:]
        elif kind == 3:
            data = data[:start] + data[end:]
        elif kind == 4:
            data = data[:start] + data[start:end] * rng.choice((2, 50)) + data[end:]
        elif kind == 5:  # in the header
            start = rng.randrange(min(len(data), 120) + 1)
            data = data[:start] + rng.choice(SNIPPETS) + data[start + rng.randrange(8) :]
        else:
            data = data[:start] + rng.choice(SNIPPETS) + data[start:]
    return data
