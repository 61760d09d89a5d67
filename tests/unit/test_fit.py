"""The training loop: same bits after a resume, polite stops, kills, full disks, NaN (T18, T34–T36, training part)."""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

from mdistill.errors import BadInput, Interrupted, MdistillError, MdistillNotice
from mdistill.interrupt import NEVER, StopRequest, stop_on_signals
from mdistill.nets.model_files import read_header, sealed
from mdistill.training import budget
from mdistill.training import fit as module
from mdistill.training.fit import CHECKPOINT, HISTORY, TRAINING, fit, learning_rate, order_of
from mdistill.training.settings import FitSettings


class Line:
    """Fit y = W x + noise; the objective draws from (step), as the potential's does for its probes."""

    def __call__(self, net, batch, step):
        x, y = torch.stack([item[0] for item in batch]), torch.stack([item[1] for item in batch])
        noise = torch.from_numpy(np.random.default_rng([5, max(step, 0)]).normal(size=y.shape)).to(y) * (
            0.01 if step >= 0 else 0.0
        )
        error = net(x) - y - noise
        return error.square().mean(), {"error": float(error.detach().abs().mean())}

    def observe(self, history):
        pass

    def describe(self, measures):
        return f"error {measures.get('error', math.nan):.3f}"


class SlowLine(Line):
    def __call__(self, net, batch, step):
        time.sleep(0.004)
        return super().__call__(net, batch, step)


def data(count=22):
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(count, 3)))
    return [(row, torch.stack([row.sum(), row[0] - row[1]])) for row in x]


def network():
    net = torch.nn.Linear(3, 2, dtype=torch.float64)
    with torch.no_grad():
        net.weight.fill_(0.1)
        net.bias.zero_()
    return net


SETTINGS = FitSettings(steps=60, batch_size=4, warmup=5, learning_rate=0.05, seed=3)


class StopAt(StopRequest):
    """Pending from the given question on."""

    def __init__(self, question):
        super().__init__(signal_number=0)
        object.__setattr__(self, "left", question)

    __slots__ = ("left",)

    def pending(self):
        self.left -= 1
        return self.left < 0


def train(folder: Path, *, stop=NEVER, settings=SETTINGS, objective=None):
    items = data()
    return fit(
        network(),
        objective or Line(),
        items[:18],
        items[18:],
        settings.suited("moment"),
        folder=folder,
        stop=stop,
        work=replace(TRAINING, inputs={"items": "line"}),
    )


def bits(result) -> bytes:
    return b"".join(value.numpy().tobytes() for value in result.module.state_dict().values())


def without_clock(history):
    return [{k: v for k, v in row.items() if k != "minutes"} for row in history]


def interrupted_then_resumed(folder: Path, moments) -> tuple[bytes, list, bytes]:
    for moment in moments:
        with pytest.raises(Interrupted):
            train(folder, stop=StopAt(moment))
    result = train(folder)
    return bits(result), without_clock(result.history), checkpoint_bits(folder)


def checkpoint_bits(folder: Path) -> bytes:
    """The tensors of the checkpoint: weights, averages, optimiser (its JSON holds the clock)."""
    raw = (folder / CHECKPOINT).read_bytes()
    return raw[8 + int.from_bytes(raw[:8], "little") :]


def assert_resume_is_exact(tmp_path: Path, moments) -> None:
    whole = train(tmp_path / "whole")
    found = interrupted_then_resumed(tmp_path / "parts", moments)
    assert found == (bits(whole), without_clock(whole.history), checkpoint_bits(tmp_path / "whole"))


@pytest.mark.parametrize("moments", [(1,), (7, 12, 3), (25, 1, 1)])
def test_resumed_training_is_bitwise_the_uninterrupted_one(tmp_path, moments, trust):
    assert_resume_is_exact(tmp_path, moments)
    trust(
        "T18",
        f"training stopped {len(moments)} time(s), mid-epoch too: weights, average, optimiser, history",
        "equal bits",
        "bitwise",
    )


@pytest.mark.planted
@pytest.mark.parametrize("forgotten", ["first", "second", "left", "left_basis", "right_basis", "average", "module", "step"])
def test_a_forgotten_part_of_the_state_is_noticed(tmp_path, monkeypatch, forgotten, trust):
    right = module._Run.load

    def forgetful(self):
        fresh = {"module": self.module, "average": self.average}
        kept = {name: {k: v.clone() for k, v in part.state_dict().items()} for name, part in fresh.items()}
        blank = {name: [value.clone() for value in values] for name, values in self.optimiser.state.items()}
        right(self)
        if forgotten in blank:
            self.optimiser.state[forgotten] = blank[forgotten]
        elif forgotten == "step":
            self.at.step = max(0, self.at.step - 1)
        else:
            fresh[forgotten].load_state_dict(kept[forgotten])

    monkeypatch.setattr(module._Run, "load", forgetful)
    with pytest.raises(AssertionError):
        assert_resume_is_exact(tmp_path, (7, 12))
    trust("T18", f"{forgotten} not restored", "caught", "caught", planted=True)


def test_it_learns_and_writes_its_history(tmp_path):
    result = train(tmp_path, settings=FitSettings(steps=400, batch_size=4, warmup=5, learning_rate=0.05, weight_decay=1e-6))
    assert result.steps == 400
    assert result.history[-1]["validation"]["error"] < 0.02
    assert json.loads((tmp_path / HISTORY).read_text()) == result.history
    again = train(tmp_path, settings=FitSettings(steps=400, batch_size=4, warmup=5, learning_rate=0.05, weight_decay=1e-6))
    assert bits(again) == bits(result), "a finished training is not trained on"


class Machine(Line):
    """An objective whose steps cost CPU time and wall time (minutes) on a clock of its own; both may change at a step."""

    def __init__(self, monkeypatch, cpu, wall):
        self.cpu, self.wall, self.now = cpu, wall, [0.0, 0.0]
        monkeypatch.setattr(budget, "clocks", lambda: tuple(self.now))

    def __call__(self, net, batch, step):
        if step >= 0:
            self.now[0] += self.cpu(step)
            self.now[1] += self.wall(step)
        return super().__call__(net, batch, step)


BUDGET = FitSettings(max_minutes=1.0, max_epochs=10**4, least_steps=60, batch_size=4, warmup=5, learning_rate=0.01, seed=3)


def on_machine(folder, monkeypatch, cpu, wall, settings=BUDGET, **how):
    def as_function(cost):
        return cost if callable(cost) else lambda step: cost

    return train(folder, settings=settings, objective=Machine(monkeypatch, as_function(cpu), as_function(wall)), **how)


def test_a_budget_counts_cpu_time_so_a_busy_machine_is_slower_but_not_worse(tmp_path, monkeypatch):
    idle = on_machine(tmp_path / "idle", monkeypatch, 0.005, 0.005)
    with pytest.warns(MdistillNotice, match=r"took 4 min for a budget of 1 min .*busy.*all 200 steps"):
        busy = on_machine(tmp_path / "busy", monkeypatch, 0.005, 0.02)
    assert idle.steps == busy.steps == 200 and bits(idle) == bits(busy)
    assert (idle.ended, idle.note) == ("budget", "") and busy.ended == "budget"
    assert busy.cpu_minutes == pytest.approx(1.0) and busy.wall_minutes == pytest.approx(4.0)


def test_a_machine_that_slows_down_is_timed_again_and_its_learning_rate_still_falls_to_the_end(tmp_path, monkeypatch):
    rates = []
    right = module.learning_rate
    monkeypatch.setattr(module, "learning_rate", lambda *a: rates.append(right(*a)) or rates[-1])
    result = on_machine(tmp_path, monkeypatch, lambda step: 0.002 if step < 100 else 0.008, 0.002)
    assert 190 <= result.steps <= 210, "100 steps of 0.002 min, 100 of 0.008 min"
    assert result.cpu_minutes == pytest.approx(1.0, abs=0.05)
    assert rates[-1] == pytest.approx(0.01 * BUDGET.learning_rate, rel=0.1)


def test_a_slow_machine_gets_its_floor_of_steps_and_overruns(tmp_path, monkeypatch):
    with pytest.warns(MdistillNotice, match="took 3 min for a budget of 1 min"):
        result = on_machine(tmp_path, monkeypatch, 0.05, 0.05)
    assert result.steps == 60


def test_no_clock_cuts_a_fit_short_however_busy_the_machine(tmp_path, monkeypatch):
    idle = on_machine(tmp_path / "idle", monkeypatch, 0.005, 0.005)
    with pytest.warns(MdistillNotice, match="train: the fit took 40 min for a budget of 1 min .*all 200 steps were done"):
        busy = on_machine(tmp_path / "busy", monkeypatch, 0.005, 0.2)
    assert busy.ended == "budget" and bits(busy) == bits(idle)


def test_few_fixed_steps_are_reported(tmp_path):
    assert "60 steps, fewer than the 1000" in train(tmp_path, settings=replace(SETTINGS, least_steps=1000)).note
    assert train(tmp_path / "enough", settings=replace(SETTINGS, least_steps=60)).note == ""


def test_a_fit_that_few_labels_end_before_its_floor_of_steps_is_told(tmp_path, monkeypatch):
    with pytest.warns(MdistillNotice, match="train: the fit had 50 steps, fewer than the 60 of a usable student"):
        result = on_machine(tmp_path, monkeypatch, 0.005, 0.005, replace(BUDGET, max_epochs=2))
    assert result.ended == "epochs"


def test_a_checkpoint_from_before_times_were_kept_is_timed_from_its_step_on(tmp_path, monkeypatch):
    with pytest.raises(Interrupted):
        on_machine(tmp_path, monkeypatch, 0.005, 0.005, stop=StopAt(150))
    path = tmp_path / CHECKPOINT
    header, arrays = read_header(path, "training"), safetensors.numpy.load_file(path)
    assert header["progress"].pop("spent")["cpu"] == pytest.approx(0.75, abs=0.02)
    header["progress"]["minutes"] = 0.75
    safetensors.numpy.save_file(arrays, path, metadata=sealed("training", json.dumps(header)))
    assert on_machine(tmp_path, monkeypatch, 0.005, 0.005).steps == pytest.approx(200, abs=2)


def test_a_budget_resumes_with_the_schedule_of_its_checkpoint(tmp_path, monkeypatch):
    def cost(step):
        return 0.004 + 0.003 * math.sin(step / 9.0)

    whole = on_machine(tmp_path / "whole", monkeypatch, cost, cost)
    for moment in (40, 31, 47):
        with pytest.raises(Interrupted):
            on_machine(tmp_path / "parts", monkeypatch, cost, cost, stop=StopAt(moment))
    parts = on_machine(tmp_path / "parts", monkeypatch, cost, cost)
    assert (parts.steps, bits(parts)) == (whole.steps, bits(whole)) and parts.steps > 200


def test_a_plateau_ends_training_with_a_last_fall_of_the_learning_rate(tmp_path, monkeypatch):
    right = Line.__call__

    def limited(self, net, batch, step):
        loss, measures = right(self, net, batch, step)
        return loss + 1.0, measures

    monkeypatch.setattr(Line, "__call__", limited)
    flat = on_machine(tmp_path / "flat", monkeypatch, 5e-4, 5e-4, replace(BUDGET, learning_rate=0.05, ema=0.0))
    assert flat.ended == "plateau" and flat.steps < 0.75 * 2000 and flat.note == ""
    falling = [{"validation": {"loss": 2.0 * 0.9**k}} for k in range(20)]
    assert not budget.at_plateau(falling) and not budget.at_plateau(falling[:3])
    noise = np.random.default_rng(0).normal(size=20)
    assert budget.at_plateau([{"validation": {"loss": math.exp(0.1 * x + 0.05 * k)}} for k, x in enumerate(noise)])
    assert not budget.at_plateau([{"validation": {"loss": math.exp(0.05 * x - 0.1 * k)}} for k, x in enumerate(noise)])


def header(folder: Path) -> str:
    raw = (folder / CHECKPOINT).read_bytes()
    return json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])["__metadata__"]["training"].splitlines()[-1]


def test_schedule_and_order_depend_on_step_and_seed_alone():
    settings = FitSettings(learning_rate=0.1, warmup=10)
    assert learning_rate(settings, 0, 1000) == pytest.approx(0.01, rel=1e-3)
    assert learning_rate(settings, 500, 1000) == pytest.approx(0.1 * (0.01 + 0.99 * 0.5))
    assert learning_rate(settings, 1000, 1000) == pytest.approx(0.001)
    assert order_of(9, 1, 4) == order_of(9, 1, 4)
    assert order_of(9, 1, 4) != order_of(9, 1, 5)
    assert sorted(order_of(9, 1, 4)) == list(range(9))


def test_not_a_number_stops_and_keeps_the_last_good_state(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_SAVE_SECONDS", 0.0)

    class Poisoned(Line):
        def __call__(self, net, batch, step):
            loss, measures = super().__call__(net, batch, step)
            return (loss * math.nan if step == 30 else loss), measures

    with pytest.raises(MdistillError, match=r"step 31.*\n.*kept.*\n.*learning rate"):
        train(tmp_path, objective=Poisoned())
    assert json.loads(header(tmp_path))["progress"]["step"] == 30
    assert bits(train(tmp_path)) == bits(train(tmp_path / "whole")), "the state that was kept is the good one"


def test_a_long_epoch_is_saved_within(tmp_path, monkeypatch):
    """A process that is killed loses a minute, not an epoch."""
    monkeypatch.setattr(module, "_LONGEST_UNSAVED", 0.0)

    class Killed(Line):
        def __call__(self, net, batch, step):
            if step == 33:
                raise KeyboardInterrupt
            return super().__call__(net, batch, step)

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, objective=Killed())
    assert json.loads(header(tmp_path))["progress"]["step"] == 33, "epochs have five steps"
    assert bits(train(tmp_path)) == bits(train(tmp_path / "whole"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": -1},
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"learning_rate": math.nan},
        {"ema": 1.0},
        {"max_minutes": 0.0},
        {"clip": -1.0},
    ],
)
def test_bad_settings_are_refused(wrong):
    with pytest.raises(BadInput):
        FitSettings(**wrong)


def test_a_checkpoint_of_other_settings_is_refused(tmp_path):
    with pytest.raises(Interrupted):
        train(tmp_path, stop=StopAt(5))
    with pytest.raises(BadInput, match="other settings"):
        train(tmp_path, settings=FitSettings(steps=61, batch_size=4))


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "text"])
def test_a_damaged_checkpoint_is_refused_with_advice(tmp_path, damage):
    with pytest.raises(Interrupted):
        train(tmp_path, stop=StopAt(5))
    path = tmp_path / CHECKPOINT
    raw = bytearray(path.read_bytes())
    raw[-3] ^= 1
    path.write_bytes({"flip": bytes(raw), "cut": bytes(raw[:-9]), "empty": b"", "text": b"hello"}[damage])
    with pytest.raises(BadInput):
        train(tmp_path)


def test_nothing_to_train_on_is_refused(tmp_path):
    with pytest.raises(BadInput):
        fit(network(), Line(), [], [], SETTINGS, folder=tmp_path)


def test_killed_at_random_moments_it_resumes_to_the_same_bits(tmp_path, trust):
    """A forked child is killed 25 times; what it left is resumed each time, and the end is that of an unbroken run."""
    whole = train(tmp_path / "whole")
    folder, rng, kills = tmp_path / "killed", np.random.default_rng(1), 0
    while kills < 25:
        pid = os.fork()
        if pid == 0:
            module._SAVE_SECONDS = 0.0
            try:
                train(folder, objective=SlowLine())
            finally:
                os._exit(0)
        time.sleep(float(rng.uniform(0.0, 0.12)))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        kills += 1
        if (folder / CHECKPOINT).exists():
            assert json.loads(header(folder))["progress"]["step"] <= 60
            assert isinstance(json.loads((folder / HISTORY).read_text()), list) if (folder / HISTORY).exists() else True
    assert bits(train(folder)) == bits(whole)
    trust("T34", "training killed at 25 random moments, then resumed: averaged weights", "equal bits", "equal loss")


def train_under_signals(folder: Path, pipe: int) -> None:
    """In a forked child: say "ready" in the third step, train slowly, and end with what an error says and its status."""

    class Ready(Line):
        def __call__(self, net, batch, step):
            if step == 2:
                os.write(pipe, b"ready\n")
            time.sleep(0.1)
            return super().__call__(net, batch, step)

    status = 0
    try:
        with stop_on_signals() as stop:
            train(folder, stop=stop, objective=Ready())
    except MdistillError as error:
        os.write(pipe, str(error).encode())
        status = error.exit_status
    finally:
        os._exit(status)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 130)])
def test_signals_save_and_end_politely(tmp_path, number, status, trust):
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        train_under_signals(tmp_path, writing)
    assert os.read(reading, 100) == b"ready\n"
    os.kill(pid, number)
    message = os.read(reading, 1000).decode()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == status
    assert message.startswith("stopped") and "resume:" in message
    assert 0 < json.loads(header(tmp_path))["progress"]["step"] < 60
    assert bits(train(tmp_path)) == bits(train(tmp_path / "whole"))
    trust("T35", f"training, {number.name}: exit {status}", "saved, resumes to equal bits", "saved, before the fit's end")


def test_time_limit_saves_and_ends(tmp_path, trust):
    with pytest.raises(Interrupted, match="time limit"):
        train(tmp_path, stop=StopRequest(deadline=time.monotonic() + 0.05), objective=SlowLine())
    assert bits(train(tmp_path)) == bits(train(tmp_path / "whole"))
    trust("T35", "training, time limit", "saved, resumes to equal bits", "saved")


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, monkeypatch, trust):
    """File size limits at 20 offsets stand in for a full disk."""
    monkeypatch.setattr(module, "_SAVE_SECONDS", 0.0)
    whole = train(tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(tmp_path / "full", stop=StopAt(20))
    path = tmp_path / "full" / CHECKPOINT
    old, soft_hard = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        for offset in np.linspace(0, len(old) - 200, 20).astype(int):
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(offset), soft_hard[1]))
            try:
                with pytest.raises(MdistillError, match=CHECKPOINT):
                    train(tmp_path / "full")
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, soft_hard)
            assert path.read_bytes() == old
            assert [p.name for p in path.parent.iterdir() if "partial" in p.name] == []
    finally:
        signal.signal(signal.SIGXFSZ, previous)
    assert bits(train(tmp_path / "full")) == bits(whole)
    trust("T36", "training checkpoint, disk full at 20 offsets: old file intact, named, resumes to equal bits", 20, "20 of 20")
