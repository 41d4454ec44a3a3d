"""Grids of settings in a recipe; corpus limit, evaluated split, objective."""

import math

import pytest
from runs import run_of

from a2d.errors import UserError
from a2d.runs.recipe import load_recipe
from a2d.runs.splits import read_splits
from a2d.runs.stages import all_stages
from a2d.runs.stages.sequences import Sequences
from a2d.runs.stages.students import Student, models_of
from a2d.runs.stages.teacher_scores import TeacherScores
from a2d.runs.stages.translations import translations_of
from a2d.text.corpus import read_corpus


def methods(*entries, shared="null"):
    """Load the recipe with other methods; return the expanded methods."""
    return load_recipe(
        "methods", [f"distillation={shared}", f"methods=[{', '.join(entries)}]"]
    ).methods


def refused(*overrides):
    """Load the recipe, expect one error sentence and return it."""
    with pytest.raises(UserError) as caught:
        load_recipe("methods", overrides)
    message = str(caught.value)
    assert "\n" not in message
    assert "pydantic" not in message
    assert message.endswith(".")
    return message


class TestSweeps:
    def test_of_one_setting(self):
        assert [
            (m.method, m.name, m.beta) for m in methods("{method: a2d, beta: [0.5, 1, 2]}")
        ] == [
            ("a2d", "a2d-beta_0.5", 0.5),
            ("a2d", "a2d-beta_1", 1),
            ("a2d", "a2d-beta_2", 2),
        ]

    def test_of_several_are_their_combinations(self):
        expanded = methods("{method: a2d, beta: [1, 2], alpha: [0.1, 0.9], decay: [0, 0.5, 1]}")
        assert len(expanded) == len({(m.alpha, m.beta, m.decay) for m in expanded}) == 12
        assert {m.beta for m in expanded} == {1, 2}
        assert {m.alpha for m in expanded} == {0.1, 0.9}
        assert {m.decay for m in expanded} == {0, 0.5, 1}
        assert expanded[1].name == "a2d-beta_1-alpha_0.1-decay_0.5"  # in the entry's order
        assert len({m.name for m in expanded}) == 12

    def test_leave_the_other_settings_and_methods_alone(self):
        expanded = methods("kd", "{method: a2d, beta: [1, 2], decay: 0.3}", "baseline")
        assert [m.name for m in expanded] == ["kd", "a2d-beta_1", "a2d-beta_2", "baseline"]
        assert [m.decay for m in expanded] == [1, 0.3, 0.3, 1]

    def test_keep_a_name_of_their_own(self):
        expanded = methods("{method: a2d, name: short, beta: [1, 2]}", "{method: a2d, beta: [3]}")
        assert [m.name for m in expanded] == ["short-beta_1", "short-beta_2", "a2d-beta_3"]

    def test_of_methods_need_a_name(self):
        expanded = methods("{method: [kd, seqkd+kd], name: both, temperature: [1, 2]}")
        assert [(m.method, m.temperature, m.name) for m in expanded] == [
            ("kd", 1, "both-method_kd-temperature_1"),
            ("kd", 2, "both-method_kd-temperature_2"),
            ("seqkd+kd", 1, "both-method_seqkd+kd-temperature_1"),
            ("seqkd+kd", 2, "both-method_seqkd+kd-temperature_2"),
        ]

    def test_of_words_and_nothing(self):
        expanded = methods(
            "{method: a2d, groups: [encoder+cross, decoder], formula: [paper, official-mixture]}",
            "{method: a2d, alignment_learning_rate: [null, 0.02], student_start: [teacher]}",
        )
        assert [m.name for m in expanded] == [
            "a2d-groups_encoder+cross-formula_paper",
            "a2d-groups_encoder+cross-formula_official-mixture",
            "a2d-groups_decoder-formula_paper",
            "a2d-groups_decoder-formula_official-mixture",
            "a2d-alignment_learning_rate_None-student_start_teacher",
            "a2d-alignment_learning_rate_0.02-student_start_teacher",
        ]
        assert [m.alignment_learning_rate for m in expanded[-2:]] == [None, 0.02]

    def test_inherit_what_methods_share(self):
        shared = "{alpha: 0.25, beta: 7, formula: paper}"
        expanded = methods("{method: a2d, beta: [1, 2]}", "a2d", shared=shared)
        assert [m.beta for m in expanded] == [1, 2, 7]
        assert {(m.alpha, m.formula) for m in expanded} == {(0.25, "paper")}

    def test_have_as_many_students_as_combinations_shapes_and_seeds(self, tmp_path):
        recipe = load_recipe(
            "methods",
            [
                "methods=[kd, {method: a2d, beta: [1, 2], alpha: [0, 1]}]",
                "students=[{heads: 2}, {heads: 4}, {heads: 8}]",
                "seeds=[1, 2]",
            ],
        )
        run = run_of(recipe, tmp_path, read_splits(recipe))
        students = run.all(Student)
        assert len({stage.folder for stage in all_stages(run)}) == len(all_stages(run))
        assert len(students) == math.prod((1 + 2 * 2, 3, 2))
        assert len({student.fingerprint for student in students}) == len(students)

    def test_loads_again_as_it_was_written_down(self):
        recipe = load_recipe("methods", ["methods=[kd, {method: a2d, beta: [1, 2]}]"])
        assert type(recipe).model_validate(recipe.model_dump()) == recipe

    @pytest.mark.parametrize(
        ("entry", "message"),
        [
            ("{method: a2d, beta: [1, -1]}", "'methods.1.beta' is -1: "),
            ("{method: a2d, beta: [[1, 2]]}", "'methods.0.beta' is [1, 2]: "),
            ("{method: a2d, beta: []}", "'methods.0.beta' is []: "),
            ("{method: a2d, bta: [1, 2]}", "unknown key 'methods.0.bta': did you mean 'beta'?"),
            ("{method: a2d, beta: [1, 1]}", "two methods are called 'a2d-beta_1'"),
            ("{method: [kd, a2dd], name: x}", "unknown method 'a2dd': did you mean 'a2d'?"),
            ("{method: [kd, a2d]}", "'methods.0.name' is ['kd', 'a2d']: "),
            ("{method: kd, name: [a, b]}", "'methods.0.name' is ['a', 'b']: "),
            ("{beta: [1, 2]}", "'methods.0.method' is missing"),
        ],
    )
    def test_with_a_mistake_are_refused(self, entry, message):
        assert message in refused(f"methods=[{entry}, baseline]")

    def test_belong_to_methods_alone(self):
        assert "'distillation.beta' is [1, 2]: " in refused("distillation={beta: [1, 2]}")

    def test_refuse_the_same_method_under_two_names(self):
        with pytest.raises(UserError, match=r"methods 'short' and 'a2d' are the same"):
            methods("{method: a2d, name: short, beta: 3.0}", "a2d")


class TestUnusedSettings:
    @pytest.mark.parametrize(
        ("entries", "names", "setting", "method"),
        [
            ("{method: kd, beta: [1, 3]}", ("kd-beta_1", "kd-beta_3"), "beta", "kd"),
            (
                "{method: baseline, alpha: [0, 1]}",
                ("baseline-alpha_0", "baseline-alpha_1"),
                "alpha",
                "baseline",
            ),
            (
                "{method: last, formula: [paper, geometric]}",
                ("last-formula_paper", "last-formula_geometric"),
                "formula",
                "last",
            ),
            ("kd, {method: kd, name: b, decay: 0.3}", ("kd", "b"), "decay", "kd"),
            (
                "{method: [kd, a2d], name: x, groups: [cross, encoder]}",
                ("x-method_kd-groups_cross", "x-method_kd-groups_encoder"),
                "groups",
                "kd",
            ),
            (
                "{method: kd, monolingual: [true, false]}",
                ("kd-monolingual_True", "kd-monolingual_False"),
                "monolingual",
                "kd",
            ),
        ],
    )
    def test_do_not_make_students(self, entries, names, setting, method):
        assert refused(f"methods=[{entries}]") == (
            f"methods: methods {names[0]!r} and {names[1]!r} differ only in {setting}, which "
            f"{method} does not use: give it one value."
        )

    def test_of_monolingual_text_need_such_text(self):
        message = refused("methods=[{method: seqkd, monolingual: [true, false]}]")
        assert "differ only in monolingual, without corpus.monolingual: give it one" in message

    def test_may_have_one_value(self):
        expanded = methods("kd", "a2d", "{method: baseline, decay: 0.2}", shared="{beta: 7}")
        assert [method.beta for method in expanded] == [7, 7, 7]

    def test_of_one_method_may_be_those_of_another(self):
        expanded = methods("{method: a2d, beta: [1, 2]}", "{method: kd, temperature: [1, 2]}")
        assert len(expanded) == 4

    def test_groups_have_no_order(self):
        message = refused("methods=[{method: a2d, groups: [encoder+cross, cross+encoder]}]")
        assert message.endswith("-groups_cross+encoder' are the same.")


class TestNames:
    @pytest.mark.parametrize("name", ["off", "5", "null", "1.5", "{a: b}"])
    @pytest.mark.parametrize("settings", ["", ", temperature: 2", ", temperature: [1, 2]"])
    def test_that_yaml_takes_for_something_else_are_refused(self, name, settings):
        message = refused(f"methods=[{{method: kd, name: {name}{settings}}}]")
        assert message.startswith("methods: 'methods.0.name' is ")
        assert "valid string" in message

    @pytest.mark.parametrize("name", ["a/b", "..", "-a", "a b", "''"])
    def test_that_name_no_folder_are_refused(self, name):
        assert "'methods.0.name' is " in refused(f"methods=[{{method: kd, name: {name}}}]")


class TestObjective:
    @pytest.mark.parametrize(
        ("setting", "message"),
        [
            (
                "alignment_start: unifrm",
                "unknown alignment_start 'unifrm': did you mean 'uniform'?",
            ),
            ("formula: oficial", "unknown formula 'oficial': did you mean 'official'?"),
            ("groups: encoder+cros", "unknown group 'cros': did you mean 'cross'?"),
            ("groups: encoder cross", "unknown group 'encoder cross': did you mean "),
            ("groups: encoder+", "unknown group '': valid are encoder, decoder, cross."),
            ("groups: ''", "unknown group '': valid are encoder, decoder, cross."),
            ("method: seqkd+kdd", "unknown method 'seqkd+kdd': did you mean 'seqkd+kd'?"),
        ],
    )
    def test_unknown_words_are_refused_with_the_nearest(self, setting, message):
        key = setting.partition(":")[0]
        method = "" if key == "method" else "method: a2d, "
        assert f"methods.1.{key}: {message}" in refused(f"methods=[kd, {{{method}{setting}}}]")
        if key != "method":
            assert f"distillation.{key}: {message}" in refused(f"distillation={{{setting}}}")

    @pytest.mark.parametrize(
        "groups", ["encoder", "cross", "encoder+cross", "cross+decoder+encoder"]
    )
    def test_groups_are_joined_by_plus(self, groups):
        (method,) = methods(f"{{method: a2d, groups: {groups}}}")
        assert method.groups == groups

    def test_all_groups_are_compared_by_default(self):
        assert methods("a2d")[0].groups == "encoder+decoder+cross"

    def test_unknown_student_start(self):
        message = refused("methods=[{method: kd, student_start: techer}]")
        values = "'teacher', 'random' or 'marian'"
        assert f"'methods.0.student_start' is 'techer': it must be {values}" in message


class TestLimit:
    def test_draws_as_many_training_pairs_the_same_each_time(self):
        full, once, again = (
            read_splits(load_recipe("methods", overrides))
            for overrides in ([], ["corpus.limit=500"], ["corpus.limit=500", "seeds=[9]"])
        )
        full, once, again = (s._replace(train=list(s.train)) for s in (full, once, again))
        assert len(once.train) == len(set(once.train)) == 500
        assert set(once.train) < set(full.train)
        assert once.train == again.train
        assert once.fingerprint == again.fingerprint != full.fingerprint
        # The sample is not the start of the corpus: neighbours resemble each other.
        assert len(set(once.train) & set(full.train[: len(full.train) // 2])) < 300

    def test_leaves_the_other_parts_alone(self):
        splits = read_splits(load_recipe("methods", ["corpus.limit=3"]))
        for name in ("valid", "test"):
            assert getattr(splits, name) == read_corpus(f"builtin:de-dsb/{name}")

    def test_above_the_size_of_the_corpus_changes_nothing(self):
        full = read_splits(load_recipe("methods"))
        for limit in (len(full.train), 10_000_000):
            splits = read_splits(load_recipe("methods", [f"corpus.limit={limit}"]))
            assert list(splits.train) == list(full.train)
            assert splits.fingerprint == full.fingerprint

    @pytest.mark.parametrize(
        ("limit", "value"), [("0", "0"), ("-3", "-3"), ("few", "'few'"), ("1.5", "1.5")]
    )
    def test_out_of_range(self, limit, value):
        assert f"'corpus.limit' is {value}: " in refused(f"corpus.limit={limit}")


class TestSplit:
    def test_unknown(self):
        message = refused("evaluation.split=train")
        assert "'evaluation.split' is 'train': it must be 'valid' or 'test'" in message

    def test_is_test_by_default(self):
        assert load_recipe("methods").evaluation.split == "test"

    def test_changes_translations_and_nothing_before_them(self, tmp_path):
        valid, test = (load_recipe("methods", [f"evaluation.split={s}"]) for s in ("valid", "test"))
        splits = read_splits(valid)
        chosen, reported = (run_of(recipe, tmp_path, splits) for recipe in (valid, test))
        stages = translations_of(chosen), translations_of(reported)
        for model, reported_model in zip(models_of(chosen), models_of(reported), strict=True):
            assert model == reported_model
            before, after = (by_name[model.name] for by_name in stages)
            assert before.folder == tmp_path / "translations/valid" / model.name
            assert after.folder == tmp_path / "translations/test" / model.name
            assert before.fingerprint != after.fingerprint
        assert chosen.all(TeacherScores) == reported.all(TeacherScores)
        assert chosen.all(Sequences) == reported.all(Sequences)
