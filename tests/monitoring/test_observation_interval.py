"""How often a monitor observes."""

from learned_opt.monitoring.observation_interval import ObservationInterval


class Clock:
    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr("time.perf_counter", lambda: self.now)


def observed(interval, clock, steps, seconds_per_step, seconds_per_observation):
    found = []
    for step in range(steps):
        clock.now += seconds_per_step
        if interval.due(step):
            found.append(step)
            clock.now += seconds_per_observation
            interval.observed(step, seconds_per_observation)
    return found


def test_a_given_interval_is_kept_whatever_it_costs(monkeypatch):
    clock = Clock(monkeypatch)
    assert observed(ObservationInterval(4), clock, 10, 1e-6, 1.0) == [0, 4, 8]


def test_by_default_observations_take_a_hundredth_of_the_time(monkeypatch):
    clock = Clock(monkeypatch)
    steps = observed(ObservationInterval(None), clock, 100_000, 0.001, 0.01)
    assert steps[0] == 0
    cost = 0.01 * len(steps) / (100_000 * 0.001)
    assert 0.009 < cost <= 0.0102


def test_a_model_with_long_steps_is_observed_every_ten_steps_and_later_less_often(monkeypatch):
    clock = Clock(monkeypatch)
    steps = observed(ObservationInterval(None), clock, 15_000, 10.0, 0.01)
    assert steps[:4] == [0, 10, 20, 30]
    assert steps[-1] - steps[-2] == 20 and len(steps) == 1250
