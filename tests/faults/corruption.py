"""Damage of files, as disks and file systems cause it."""


def flip_a_bit(path, rng):
    content = bytearray(path.read_bytes())
    bit = rng.randrange(8 * len(content))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def cut(path, rng):
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content))])


def empty(path, rng):
    path.write_bytes(b"")


def zero(path, rng):
    """Overwrite the end of a file with zeros, as file systems do after a loss of power."""
    content = path.read_bytes()
    start = rng.randrange(len(content))
    path.write_bytes(content[:start] + bytes(len(content) - start))


def remove(path, rng):
    path.unlink()


CORRUPTIONS = [flip_a_bit, cut, empty, zero, remove]


def corrupt(path, kind, rng):
    """Damage a file; repeat the damage until the content changes."""
    before = path.read_bytes()
    kind(path, rng)
    while path.exists() and path.read_bytes() == before:  # the end may have been zeros already
        kind(path, rng)
