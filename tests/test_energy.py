"""The meter adds up counters of energy, also where they begin at zero again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a2d.runs.energy import Counter, EnergyMeter, find_counters, total_energy


@given(st.integers(0, 99), st.lists(st.integers(0, 99), max_size=20))
def test_energy_is_the_sum_of_all_steps_in_spite_of_overflows(start, steps):
    values = [start]
    for step in steps:
        values.append((values[-1] + step) % 100)
    readings = iter(values)
    with EnergyMeter([Counter(lambda: next(readings, values[-1]), 100)]) as meter:
        for _ in steps:
            meter.update()
    assert meter.watt_hours == pytest.approx(sum(steps) / 3600)


def test_processors_count_without_their_parts(tmp_path):
    joules = {"intel-rapl:0": 5, "intel-rapl:1": 7, "intel-rapl:0:0": 2}
    for name, value in joules.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text(f"{value * 1_000_000}\n")
        (tmp_path / name / "max_energy_range_uj").write_text("262143328850\n")
    (tmp_path / "intel-rapl:2").mkdir()  # its counter cannot be read
    assert [counter.read() for counter in find_counters(tmp_path)[:2]] == [5, 7]


def test_without_counters_nothing_is_claimed(tmp_path):
    with EnergyMeter([]) as meter:
        assert meter.watt_hours is None
    assert total_energy(meter, tmp_path / "energy.json") is None


def test_a_continued_run_adds_its_energy(tmp_path):
    readings = iter([0.0, 7200.0])
    with EnergyMeter([Counter(lambda: next(readings, 7200.0), 1e6)]) as meter:
        pass
    assert total_energy(meter, tmp_path / "energy.json")["watt_hours"] == 2
    (tmp_path / "energy.json").write_text('{"watt_hours": 3, "seconds": 10}')
    total = total_energy(meter, tmp_path / "energy.json")
    assert total["watt_hours"] == 5
    assert total["seconds"] == pytest.approx(10, abs=1)
    (tmp_path / "energy.json").write_text('{"watt_hours"')
    assert total_energy(meter, tmp_path / "energy.json")["watt_hours"] == 2
