"""Recipes: packaged ones, inheritance, overrides, and messages about mistakes."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from runs import run_of

from a2d import recipes
from a2d.errors import UserError
from a2d.method.methods import METHODS
from a2d.runs.recipe import builtin_recipes, load_recipe
from a2d.runs.splits import Splits
from a2d.runs.stages import all_stages
from a2d.text.cleaning import CleaningReport
from a2d.text.pairs import Pair

DEMO = (Path(recipes.__file__).parent / "methods.yaml").read_text("utf-8")

EXPERIMENTS = sorted((Path(__file__).parent.parent / "experiments").glob("*.yaml"))


def refused(*overrides, recipe="methods"):
    """Load a recipe, expect one error sentence and return it."""
    with pytest.raises(UserError) as caught:
        load_recipe(str(recipe), overrides)
    message = str(caught.value)
    assert "\n" not in message
    assert "pydantic" not in message
    return message


@pytest.fixture
def write_recipe(tmp_path):
    """Function that writes a recipe to a file and returns its path."""

    def write(text):
        path = tmp_path / "mine.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write


class TestPackaged:
    @pytest.mark.parametrize("name", builtin_recipes())
    def test_has_the_name_of_its_file(self, name):
        assert load_recipe(name).name == name

    def test_demo_is_among_them(self):
        assert "methods" in builtin_recipes()

    @pytest.mark.parametrize("name", builtin_recipes())
    def test_the_recipe_in_a_runs_folder_loads_again(self, name, write_recipe):
        recipe = load_recipe(name, ["seeds=[7]"])
        text = yaml.safe_dump(recipe.model_dump(), sort_keys=False)
        assert load_recipe(write_recipe(text)) == recipe


class TestExtends:
    def test_names_only_settings_that_differ(self, write_recipe):
        recipe = load_recipe(
            write_recipe("extends: methods\nname: mine\ntraining: {num_train_epochs: 9}\n")
        )
        assert recipe == load_recipe("methods", ["name=mine", "training.num_train_epochs=9"])

    def test_lists_replace(self, write_recipe):
        recipe = load_recipe(write_recipe("extends: methods\nmethods: [kd]\nseeds: [4, 5]\n"))
        assert recipe == load_recipe("methods", ["methods=[kd]", "seeds=[4,5]"])

    def test_a_file_beside_it_which_extends_another(self, write_recipe, tmp_path):
        (tmp_path / "base.yaml").write_text("extends: methods\nvocabulary: {size: 700}\n")
        recipe = load_recipe(write_recipe("extends: base.yaml\nseeds: [4]\n"), ["name=other"])
        assert recipe == load_recipe("methods", ["vocabulary.size=700", "seeds=[4]", "name=other"])

    SIZES = "{encoder_layers: 2, decoder_layers: 1, heads: 8, width: 128, feed_forward: 512}"

    def test_a_teachers_path_replaces_shape_and_training(self, write_recipe):
        changes = f"teacher: {{path: some/model}}\nstudents: [{self.SIZES}]\n"
        recipe = load_recipe(write_recipe(f"extends: methods\n{changes}"))
        assert (recipe.teacher.path, recipe.teacher.shape) == ("some/model", None)
        overrides = ["teacher={path: some/model}", f"students=[{self.SIZES}]"]
        assert recipe == load_recipe("methods", overrides)

    def test_students_without_all_sizes_need_the_teacher_at_its_path(self, write_recipe):
        message = refused(recipe=write_recipe("extends: methods\nteacher: {path: some/model}\n"))
        assert "no model at 'some/model'" in message

    def test_a_teachers_shape_replaces_another(self, write_recipe, tmp_path):
        base = "teacher: {path: some/model, trim: true, languages: [a, b], cache: true}"
        (tmp_path / "base.yaml").write_text(f"extends: methods\n{base}\nstudents: [{self.SIZES}]\n")
        text = f"extends: base.yaml\nteacher: {{shape: {self.SIZES}}}\n"
        teacher = load_recipe(write_recipe(text)).teacher
        plain = load_recipe("methods", [f"teacher={{shape: {self.SIZES}, cache: true}}"]).teacher
        assert teacher == plain

    def test_parts_of_a_teachers_shape_are_merged(self, write_recipe):
        recipe = load_recipe(write_recipe("extends: methods\nteacher: {shape: {heads: 2}}\n"))
        assert recipe == load_recipe("methods", ["teacher.shape.heads=2"])

    @pytest.mark.parametrize(
        "changes", ["{path: null}", "{cache: true, training: {num_train_epochs: 2}}"]
    )
    def test_other_settings_of_a_teacher_leave_its_shape(self, changes, write_recipe):
        recipe = load_recipe(write_recipe(f"extends: methods\nteacher: {changes}\n"))
        assert recipe.teacher.shape == load_recipe("methods").teacher.shape

    def test_a_path_and_a_shape_together_are_still_refused(self, write_recipe):
        text = f"extends: methods\nteacher: {{path: some/model, shape: {self.SIZES}}}\n"
        assert "not both" in refused(recipe=write_recipe(text))

    def test_updates_replace_epochs_and_the_reverse(self, write_recipe):
        training = load_recipe(
            write_recipe("extends: methods\ntraining: {max_steps: 9}\n")
        ).training
        assert (training.num_train_epochs, training.max_steps) == (None, 9)
        recipe = load_recipe(
            "methods", ["training.max_steps=9", "teacher.training.num_train_epochs=2"]
        )
        assert (recipe.training.num_train_epochs, recipe.training.max_steps) == (None, 9)
        assert (recipe.teacher.training.num_train_epochs, recipe.teacher.training.max_steps) == (
            2,
            None,
        )

    def test_an_override_replaces_as_a_recipe_does(self):
        sizes = f"students=[{self.SIZES}]"
        recipe = load_recipe("methods", ["teacher.path=some/model", sizes])
        assert recipe == load_recipe("methods", ["teacher={path: some/model}", sizes])
        assert recipe == load_recipe(
            "methods", ["teacher.command=cat", "teacher.path=some/model", sizes]
        )

    def test_a_size_of_the_vocabulary_replaces_a_folder(self, write_recipe, tmp_path):
        (tmp_path / "base.yaml").write_text("extends: methods\nvocabulary: {path: there}\n")
        recipe = load_recipe(write_recipe("extends: base.yaml\nvocabulary: {size: 700}\n"))
        assert (recipe.vocabulary.path, recipe.vocabulary.size) == (None, 700)

    @pytest.mark.parametrize("base", ["mine.yaml", "other.yaml"])
    def test_not_itself(self, base, write_recipe, tmp_path):
        (tmp_path / "other.yaml").write_text("extends: mine.yaml\n")
        message = refused(recipe=write_recipe(f"extends: {base}\n"))
        assert "mine.yaml" in message
        assert "which extends it" in message

    def test_not_a_missing_recipe(self, write_recipe, tmp_path):
        assert str(tmp_path / "gone.yaml") in refused(recipe=write_recipe("extends: gone.yaml\n"))

    def test_not_a_list(self, write_recipe):
        assert "'extends' is ['methods']" in refused(recipe=write_recipe("extends: [methods]\n"))

    @pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
    def test_experiments_load(self, path):
        assert load_recipe(str(path)).name == path.stem


class TestInheritance:
    def test_students_take_unnamed_widths_from_the_teacher(self):
        recipe = load_recipe(
            "methods",
            [
                "teacher.shape.feed_forward=77",
                "teacher.shape.dropout=0.33",
                "students=[{encoder_layers: 1, width: 32, dropout: 0}, {heads: 2}]",
            ],
        )
        first, second = recipe.students
        teacher = recipe.teacher.shape
        assert (first.encoder_layers, first.width, first.dropout) == (1, 32, 0)
        assert (first.decoder_layers, first.heads) == (3, 4)
        assert first.feed_forward == 16  # a quarter of 77, as the width, to a multiple of 8
        assert second == teacher.model_copy(update={"heads": 2})

    def test_teachers_training_inherits_from_the_students(self):
        recipe = load_recipe(
            "methods",
            ["training.num_train_epochs=9", "training.label_smoothing_factor=0.2"],
        )
        assert recipe.teacher.training == replace(
            recipe.training, num_train_epochs=6.0, evaluate_every=1.5
        )
        alone = load_recipe("methods", ["teacher.training=null", "training.num_train_epochs=9"])
        assert alone.teacher.training == alone.training

    def test_methods_share_the_distillation_section(self):
        recipe = load_recipe(
            "methods",
            [
                "distillation={alpha: 0.25, temperature: 3}",
                "methods=[kd, {method: a2d, alpha: 0.75}, {method: a2d, name: hot}]",
            ],
        )
        kd, a2d, hot = recipe.methods
        assert [m.alpha for m in recipe.methods] == [0.25, 0.75, 0.25]
        assert {m.temperature for m in recipe.methods} == {3}
        assert [(m.method, m.name) for m in (kd, a2d, hot)] == [
            ("kd", "kd"),
            ("a2d", "a2d"),
            ("a2d", "hot"),
        ]

    def test_without_a_distillation_section_defaults_apply(self):
        (method,) = load_recipe("methods", ["distillation=null", "methods=[a2d]"]).methods
        assert (method.alpha, method.beta, method.decay) == (0.5, 3.0, 1.0)


class TestShapesOfStudents:
    """The teacher of `methods` has 3+3 layers, 4 heads, width 128 and feed-forward width 512."""

    PRETRAINED = "teacher={path: builtin:en-pt}"  # 5+3 layers, 4 heads, 160/640

    @staticmethod
    def sizes(*overrides):
        shape = load_recipe("methods", overrides).students[0]
        stacks = f"{shape.encoder_layers}+{shape.decoder_layers}x{shape.heads}"
        return f"{stacks}-{shape.width}-{shape.feed_forward}"

    @pytest.mark.parametrize(
        ("student", "trained", "pretrained"),
        [
            ("3x2", "3+2x4-128-512", "3+2x4-160-640"),
            ("3x2-64", "3+2x4-64-256", "3+2x4-64-256"),
            ("3x2-64-100-2", "3+2x2-64-100", "3+2x2-64-100"),
            ("tiny", "6+2x8-256-1536", "6+2x8-256-1536"),
            ("{width: 64}", "3+3x4-64-256", "5+3x4-64-256"),
            ("{decoder_layers: 1, feed_forward: 9}", "3+1x4-128-9", "5+1x4-160-9"),
        ],
    )
    def test_what_a_student_does_not_name_is_its_teachers(self, student, trained, pretrained):
        students = f"students=[{student}]"
        assert self.sizes(students) == trained
        assert self.sizes(students, self.PRETRAINED) == pretrained

    def test_the_recipe_of_a_run_needs_no_teacher(self, write_recipe):
        recipe = load_recipe("methods", ["students=[3x2]", self.PRETRAINED])
        saved = recipe.model_dump()
        saved["teacher"]["path"] = "gone"
        again = load_recipe(write_recipe(yaml.safe_dump(saved)))
        assert again.students == recipe.students

    def test_a_decoder_has_the_sizes_that_its_student_names(self):
        teacher = "teacher.shape.decoder_heads=8", "teacher.shape.decoder_feed_forward=256"
        shape = load_recipe("methods", [*teacher, "students=[{width: 64}]"]).students[0]
        assert (shape.decoder_heads, shape.decoder_feed_forward) == (8, 128)
        named = "students=[{heads: 2, decoder_feed_forward: 96}]"
        shape = load_recipe("methods", [*teacher, named]).students[0]
        assert (shape.heads, shape.decoder_heads) == (2, None)
        assert (shape.feed_forward, shape.decoder_feed_forward) == (512, 96)

    def test_rates_of_dropout_are_those_of_a_teacher_that_is_trained(self):
        overrides = ["teacher.shape.dropout=0.25", "students=[3x2]"]
        assert load_recipe("methods", overrides).students[0].dropout == 0.25

    def test_what_is_no_shape_is_refused(self):
        assert "students.1: '6x' is not a shape of a student" in refused("students=[6x2, 6x]")

    @pytest.mark.parametrize("teacher", ["{translations: a.tsv}", "{command: cat}"])
    def test_a_teacher_elsewhere_has_no_sizes(self, teacher):
        method = "methods=[{method: seqkd, student_start: random}]"
        foreign = f"teacher={teacher}", method
        message = refused("students=[6x2-64]", *foreign)
        assert "'students.0.heads' is missing: the teacher of this recipe has no sizes" in message
        assert self.sizes("students=[6x2-64-128-4]", *foreign) == "6+2x4-64-128"

    @pytest.mark.parametrize("student", ["{width: wide}", "{width: 0}", "{heads: null}", "[3, 2]"])
    def test_invalid_sizes_are_refused_by_name(self, student):
        for teacher in ((), (self.PRETRAINED,)):
            assert "students.0" in refused(f"students=[{student}]", *teacher)


class TestUnknownKeys:
    @pytest.mark.parametrize(
        ("override", "key", "near"),
        [
            ("trainig.epochs=3", "trainig", "training"),
            ("distilation={alpha: 1}", "distilation", "distillation"),
            ("corpus.source_langage=de", "corpus.source_langage", "source_language"),
            ("corpus.cleaning.max_word=3", "corpus.cleaning.max_word", "max_words"),
            ("vocabulary.sise=3000", "vocabulary.sise", "size"),
            ("teacher.shap={}", "teacher.shap", "shape"),
            ("teacher.shape.head=3", "teacher.shape.head", "heads"),
            ("teacher.training.max_step=3", "teacher.training.max_step", "max_steps"),
            ("students.0.head=3", "students.0.head", "heads"),
            ("methods=[kd, {method: a2d, bta: 1}]", "methods.1.bta", "beta"),
            ("training.lerning_rate=1", "training.lerning_rate", "learning_rate"),
            ("distillation.alpa=1", "distillation.alpa", "alpha"),
            ("evaluation.beam=3", "evaluation.beam", "beams"),
        ],
    )
    def test_are_refused_with_the_nearest_valid_one(self, override, key, near):
        message = refused(override)
        assert message.startswith(
            f"methods: unknown key {key!r}: did you mean {near!r}? Valid are "
        )
        assert near in message.partition("Valid are ")[2]

    def test_without_a_near_key_all_valid_keys_are_listed(self):
        message = refused("vocabulary.zzz=1")
        assert message.endswith("unknown key 'vocabulary.zzz': valid are size, path.")

    @pytest.mark.parametrize("section", ["vocabulary", "corpus.cleaning", "students.0"])
    def test_that_are_no_text_are_refused(self, section):
        assert "the key 5 is not text: write it in quotes" in refused(f"{section}={{5: 3}}")

    def test_that_are_no_text_at_the_top(self, write_recipe):
        line = DEMO.count("\n") + 2
        message = refused(recipe=write_recipe(f"{DEMO}\n5: 3\n"))
        assert f"at line {line}: the key 5 is not text: write it in quotes" in message

    def test_that_occur_twice(self, write_recipe):
        line = DEMO.count("\n") + 1
        message = refused(recipe=write_recipe(f"{DEMO}seeds: [5]\n"))
        assert f"at line {line}" in message
        assert "'seeds'" in message


class TestValues:
    @pytest.mark.parametrize(
        ("key", "value", "shown"),
        [
            ("name", "[a]", "['a']"),
            ("name", "a/b", "'a/b'"),
            ("name", "..", "'..'"),
            ("corpus.train", "5", "5"),
            ("corpus.source_language", "no", "False"),  # YAML's Norway problem
            ("corpus.cleaning.drop_copies", "perhaps", "'perhaps'"),
            ("vocabulary.size", "many", "'many'"),
            ("vocabulary.size", "4000.5", "4000.5"),
            ("vocabulary.size", "299", "299"),
            ("teacher", "null", "None"),
            ("teacher.shape.dropout", "1", "1"),
            ("teacher.shape.dropout", "-0.1", "-0.1"),
            ("teacher.training", "5", "5"),
            ("teacher.training.num_train_epochs", "0", "0"),
            ("students", "[]", "[]"),
            ("students", "null", "None"),
            ("students.0", "5", "5"),
            ("students.0.heads", "0", "0"),
            ("students.0.heads", "[8]", "[8]"),
            ("methods", "kd", "'kd'"),
            ("methods", "[]", "[]"),
            ("methods.1", "5", "5"),
            ("seeds", "[]", "[]"),
            ("seeds", "3", "3"),
            ("seeds.0", "one", "'one'"),
            ("seeds.0", "-1", "-1"),
            ("distillation", "kd", "'kd'"),
            ("distillation.alpha", "7", "7"),
            ("distillation.temperature", "0.0001", "0.0001"),  # A2DConfig's limit
            ("methods", "[{method: kd, name: ../kd}]", "'../kd'"),
            ("training", "5", "5"),
            ("training.max_tokens", "null", "None"),
            ("training.learning_rate", "fast", "'fast'"),
            ("training.learning_rate", "0", "0"),
            ("training.early_stopping_patience", "0", "0"),
            ("training.bf16", "maybe", "'maybe'"),
            ("evaluation.beams", "0", "0"),
        ],
    )
    def test_ill_typed_or_out_of_range(self, key, value, shown):
        message = refused(f"{key}={value}")
        assert f"'{key}" in message
        assert f"' is {shown}: " in message

    def test_numbers_that_yaml_reads_as_text(self):
        assert (
            load_recipe("methods", ["training.learning_rate=1e-3"]).training.learning_rate == 1e-3
        )

    def test_missing(self, write_recipe):
        text = re.sub(r"^  source_language: de\n", "", DEMO, flags=re.MULTILINE)
        assert "'corpus.source_language' is missing." in refused(recipe=write_recipe(text))

    @pytest.mark.parametrize("override", ["teacher={}", "teacher={path: x, command: cat}"])
    def test_teacher_is_either_pretrained_or_shaped(self, override):
        message = refused(override)
        assert "teacher: give one of path (pretrained), shape (trained from scratch)" in message

    @pytest.mark.parametrize(
        "override", ["training.num_train_epochs=null", "training={learning_rate: 1}"]
    )
    def test_a_training_has_a_length(self, override):
        assert "training: give its length, as either num_train_epochs or max_steps" in refused(
            override
        )

    def test_but_one_length(self, write_recipe):
        text = "extends: methods\ntraining: {num_train_epochs: 2, max_steps: 9}\n"
        assert "either num_train_epochs or max_steps" in refused(recipe=write_recipe(text))

    @pytest.mark.parametrize("heads", [3, 256])  # sinusoidal positions need heads of even width
    def test_heads_must_divide_the_width_evenly(self, heads):
        message = refused(f"students.0.heads={heads}")
        assert "students.0: width 128 " in message
        assert f"{heads} heads" in message


class TestMethods:
    @pytest.mark.parametrize(
        ("entry", "near"), [("kdd", "kd"), ("{method: a2dd}", "a2d"), ("base_line", "baseline")]
    )
    def test_unknown_are_refused_with_the_nearest(self, entry, near):
        message = refused(f"methods=[kd, {entry}]")
        assert "methods.1.method: unknown method" in message
        assert f"did you mean {near!r}? Valid are {', '.join(METHODS)}." in message

    def test_unknown_formula(self):
        message = refused("methods=[{method: a2d, formula: papr}]")
        assert "methods.0.formula: unknown formula 'papr': did you mean 'paper'?" in message

    def test_names_are_bounded_in_bytes(self):
        assert "must not have more than 180 bytes" in refused(
            f"methods=[{{method: kd, name: {'é' * 91}}}]"
        )

    @pytest.mark.parametrize("code", ["\x1b[31m", "e" * 5000, "en\n---", "", "klingonisch"])
    def test_languages_are_codes(self, code):
        assert "is not a language code: give one such as de" in refused(
            f"corpus.source_language={json.dumps(code)}"
        )

    def test_names_of_languages_are_refused_with_the_code(self):
        assert "'German' is not a language code: write 'de'" in refused(
            "corpus.source_language=German"
        )
        assert "write 'en'" in refused("corpus.source_language=english")

    def test_without_a_method(self):
        assert "'methods.0.method' is missing" in refused("methods=[{alpha: 1}]")

    @pytest.mark.parametrize(
        "methods", ["[kd, kd]", "[a2d, {method: a2d, beta: 2}]", "[kd, {method: a2d, name: kd}]"]
    )
    def test_of_one_name_are_refused(self, methods):
        assert "two methods are called" in refused(f"methods={methods}")

    def test_of_different_names_are_not(self):
        methods = load_recipe(
            "methods", ["methods=[a2d, {method: a2d, name: b2, beta: 2}]"]
        ).methods
        assert [(m.name, m.beta) for m in methods] == [("a2d", 3.0), ("b2", 2.0)]


class TestFolders:
    """Models of a run must not share a folder, nor write outside the run."""

    @pytest.mark.parametrize(
        "override",
        [
            "seeds=[1, 2]",
            "seeds=[1, 1]",
            "students=[{encoder_layers: 2}, {encoder_layers: 2, width: 128}]",
            "students=[{encoder_layers: 2}, {encoder_layers: 2}]",
            "methods=[{method: kd, name: ../kd}]",
        ],
    )
    def test_every_model_has_a_folder_or_the_recipe_is_refused(self, tmp_path, override):
        splits = Splits([Pair("a", "b")], [], [], CleaningReport(1, {}, 1))
        try:
            stages = all_stages(run_of(load_recipe("methods", [override]), tmp_path, splits))
        except UserError:
            assert override != "seeds=[1, 2]"
            return
        folders = [stage.folder for stage in stages]
        assert len(set(folders)) == len(folders)
        assert all(folder.resolve().is_relative_to(tmp_path) for folder in folders)


class TestOverrides:
    def test_take_yaml_and_list_places(self):
        recipe = load_recipe(
            "methods",
            [
                "training.num_train_epochs=2.5",
                "students.0.decoder_layers=1",
                "methods.2={method: a2d, decay: 1}",
                "corpus.train=[a.de, a.dsb]",
                "training.early_stopping_patience=null",
                "corpus.cleaning.max_ratio=null",
                "name=x.y-z",
            ],
        )
        assert recipe.training.num_train_epochs == 2.5
        assert recipe.students[0].decoder_layers == 1
        assert recipe.methods[2].decay == 1
        assert recipe.corpus.train == ["a.de", "a.dsb"]
        assert recipe.training.early_stopping_patience is None
        assert recipe.corpus.cleaning.max_ratio is None
        assert recipe.name == "x.y-z"

    def test_the_last_one_counts_and_missing_sections_are_created(self, write_recipe):
        path = write_recipe(DEMO.partition("\nevaluation:")[0])
        recipe = load_recipe(path, ["evaluation.beams=2", "evaluation.beams=7"])
        assert recipe.evaluation.beams == 7

    def test_values_may_hold_equal_signs(self):
        assert load_recipe("methods", ["corpus.train=x=y.tsv"]).corpus.train == "x=y.tsv"

    @pytest.mark.parametrize("override", ["training.num_train_epochs", "=3", ""])
    def test_that_assign_nothing(self, override):
        message = refused(override)
        assert f"{override!r} is not an override" in message
        assert "training.num_train_epochs=3" in message

    @pytest.mark.parametrize(
        ("override", "problem"),
        [
            ("methods.4.beta=1", "methods is a list, numbered from 0, and has items 0 to 3"),
            ("methods.-1={}", "methods is a list, numbered from 0, and has items 0 to 3"),
            ("students.1.heads=4", "students is a list, numbered from 0, and has only item 0"),
            ("students.first.heads=4", "students is a list, numbered from 0, and has only item 0"),
            ("seeds.0.x=4", "seeds.0 is 1 and has no keys"),
            ("methods.0.alpha=1", "write methods.0={method: baseline, alpha: …}"),
            ("name.x=1", "name is 'methods' and has no keys"),
            ("corpus.train.split.x=1", "corpus.train is 'builtin:de-dsb/train' and has no keys"),
        ],
    )
    def test_that_name_no_place_are_refused_with_the_reason(self, override, problem):
        message = refused(override)
        assert message.startswith(f"the override {override!r} does not fit the recipe: ")
        assert message.endswith(f"{problem}.")

    def test_of_an_empty_list(self):
        assert "seeds is a list, numbered from 0, and is empty." in refused("seeds=[]", "seeds.0=1")

    def test_that_are_no_yaml(self):
        message = "the value of the override 'seeds=[' is not valid YAML at line 1: "
        assert message in refused("seeds=[")


class TestFiles:
    def test_unknown_recipe(self):
        message = refused(recipe="dmo")
        assert "no recipe 'dmo': give the path of a YAML file or one of " in message
        assert "methods" in message

    def test_folder(self, tmp_path):
        assert f"no recipe {str(tmp_path)!r}" in refused(recipe=tmp_path)

    @pytest.mark.parametrize(
        ("text", "line"),
        [
            ("name: x\ncorpus: [a\nb: c\n", 3),
            ("name: x\n\tcorpus: 1\n", 2),
            ("a: 1\nb: 2\nc: *nowhere\n", 3),
            ("name: !!python/object/apply:os.system [ls]\n", 1),
        ],
    )
    def test_malformed(self, write_recipe, text, line):
        path = write_recipe(text)
        assert f"{path} is not valid YAML at line {line}: " in refused(recipe=path)

    @pytest.mark.parametrize("text", ["", "# nothing\n", "- a\n", "text\n"])
    def test_no_mapping(self, write_recipe, text):
        path = write_recipe(text)
        assert f"{path} holds no recipe" in refused(recipe=path)

    def test_not_utf8(self, write_recipe):
        assert "not valid UTF-8" in refused(recipe=write_recipe("name: ü".encode("latin-1")))

    def test_control_characters(self, write_recipe):
        assert "not valid YAML" in refused(recipe=write_recipe("name: x\x01\n"))


def test_a_method_that_has_no_effect_is_refused():
    with pytest.raises(UserError, match=r"distillation\.method=kd has no effect: name the methods"):
        load_recipe("methods", ["distillation.method=kd"])
