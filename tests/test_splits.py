"""Held-out sets know from which file each pair comes, where there are several."""

from a2d.runs.recipe import load_recipe
from a2d.runs.splits import read_splits
from a2d.text.corpus import read_corpus


def write(path, lines):
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return str(path)


def recipe_of(**corpus):
    values = [f"corpus.{name}={value}" for name, value in corpus.items()]
    return load_recipe(
        "methods", [*values, "corpus.source_language=de", "corpus.target_language=en"]
    )


def test_files_of_given_sets(tmp_path):
    one = write(tmp_path / "one.tsv", ["a\tb", "c\t", "d\te"])
    two = write(tmp_path / "two.tsv", ["f\tg"])
    splits = read_splits(recipe_of(valid=one, test=f"[{one}, {two}]"))
    assert "valid" not in splits.files
    assert splits.files["test"] == [one, one, two]
    assert [pair.source for pair in splits.test] == ["a", "d", "f"]


def test_files_of_held_out_pairs(tmp_path):
    pairs = read_corpus("builtin:de-dsb/train")[:3000]
    files = [
        write(tmp_path / f"{name}.tsv", ["\t".join(pair) for pair in pairs[name::3]])
        for name in range(3)
    ]
    train = f"[{', '.join(files)}]"
    splits = read_splits(recipe_of(train=train, valid="null", test="null"))
    order = [pair for name in range(3) for pair in pairs[name::3]]
    for name in ("valid", "test"):
        held_out = getattr(splits, name)
        places = splits.files[name]
        assert len(set(places)) == 3
        for pair, place in zip(held_out, places, strict=True):
            first = next(number for number, other in enumerate(order) if other == pair)
            assert place == files[0 if first < 1000 else 1 if first < 2000 else 2]
