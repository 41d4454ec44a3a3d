"""What happens to files on disks."""


def flip_a_bit(path, chance):
    content = bytearray(path.read_bytes())
    place = chance.randrange(8 * len(content))
    content[place // 8] ^= 1 << place % 8
    path.write_bytes(content)


def cut(path, chance):
    content = path.read_bytes()
    path.write_bytes(content[: chance.randrange(len(content))])


def empty(path, chance):
    path.write_bytes(b"")


def zero(path, chance):
    """As file systems leave the end of a file after a loss of power."""
    content = path.read_bytes()
    place = chance.randrange(len(content))
    path.write_bytes(content[:place] + bytes(len(content) - place))


def remove(path, chance):
    path.unlink()


SPOILS = [flip_a_bit, cut, empty, zero, remove]


def spoil(path, kind, chance):
    """Damage a file so that it differs from what it was."""
    before = path.read_bytes()
    kind(path, chance)
    while path.exists() and path.read_bytes() == before:  # as of zeros that were zeros
        kind(path, chance)
