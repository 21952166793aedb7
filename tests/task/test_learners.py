"""Several networks in one task, held against loops of torch that are written out."""

import os
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from lightning.pytorch.plugins import MixedPrecision
from torch import nn

import runs
from oboro.base.constant import constant
from oboro.base.errors import UserError
from oboro.base.seeding import derive_seed, generator
from oboro.callbacks import Checkpoints
from oboro.codec import Identity
from oboro.data.stream import Shuffled, TrainStream
from oboro.ema import EMA, ConstantDecay
from oboro.optimizer import Adam, AdamW, Constant, LinearDecay
from oboro.task import Learner, Task
from oboro.task.learner import Together, separated

CLIP = 0.05  # below the norms of both players, so that it acts
STEPS = 11
RATIO = 5


def network(inputs: int, outputs: int, seed: int) -> nn.Module:
    made = nn.Sequential(nn.Linear(inputs, 16), nn.Dropout(0.25), nn.Tanh(), nn.Linear(16, outputs))
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(torch.randn(p.shape, generator=g) / 8)
    return made


class Game(Task):
    """A generator that is updated every ``RATIO`` steps, its critic in each, and a frozen teacher of the critic."""

    def __init__(self, averaged: bool = True):
        self.computed = []
        ema, adam = EMA({"ema": ConstantDecay(0.9)}), Adam(1e-2, 3, LinearDecay())
        super().__init__(Identity(1), nn.Identity(), ema, adam, seed=3)
        self.generator, self.critic = network(8, 28 * 28, 0), network(28 * 28, 1, 1)
        self.teacher = network(28 * 28, 1, 2)
        self.critic_averaged = averaged

    learned = property(lambda self: self.generator)
    description = "a game"
    columns = 1

    @property
    def learners(self):
        critic = Learner(self.critic, AdamW(3e-3, 1, Constant(), betas=(0.5, 0.9)), averaged=self.critic_averaged)
        return {"generator": Learner(self.generator, self.optimizer, every=RATIO), "critic": critic}

    @property
    def frozen(self):
        return {"teacher": self.teacher}

    def check(self, data):
        pass

    def objective(self, batch, x, g):
        real, z = x.flatten(1), torch.randn(len(x), 8, generator=g, device=g.device)
        made = self.generator(z)
        judged = critic_loss(self.critic, self.teacher, real, made.detach())
        if not self.due("generator"):
            return judged
        self.computed.append(self.global_step)
        return judged - constant(self.critic)(made)[:, 0]

    def measure(self, batch, x):
        return x.flatten(1)[:, :1]

    def summary(self, rows):
        return {}


def critic_loss(critic, teacher, real, made):
    margin = (1 - critic(real)).relu() + (1 + critic(made)).relu()
    return (margin + (critic(real) - teacher(real)).square())[:, 0]


def trainer_and_task(callbacks=(), averaged=True, **settings):
    trainer, _, data = runs.built(
        callbacks=callbacks, **{"max_steps": STEPS, "val_check_interval": None, "limit_val_batches": 0, **settings}
    )
    with torch.random.fork_rng():
        task = Game(averaged)
    return trainer, task, data


def trained(**settings):
    trainer, task, data = trainer_and_task(**settings)
    with torch.random.fork_rng():
        trainer.fit(task, data)
    return trainer, task


def written_out(steps=STEPS, accumulate=1, clip=CLIP):
    """The same game in plain torch: two optimizers, two backward passes, two norms, two averages."""
    generator_, critic, teacher = network(8, 28 * 28, 0), network(28 * 28, 1, 1), network(28 * 28, 1, 2).eval()
    first = torch.optim.Adam(generator_.parameters(), 1e-2)
    second = torch.optim.AdamW(critic.parameters(), 3e-3, (0.5, 0.9), weight_decay=0.01)
    averages = [[p.detach().clone() for p in net.parameters()] for net in (generator_, critic)]
    data = runs.built()[2]
    data.setup()
    batches = stream_of(data, accumulate)
    for step in range(steps):
        first.param_groups[0]["lr"] = 1e-2 * min(1.0, (step + 1) / 3) * (1 - step / steps)
        first.zero_grad()
        second.zero_grad()
        for micro in range(accumulate):
            real = next(batches)
            g = generator(3, "train", step, micro, 0)
            torch.manual_seed(derive_seed(3, "dropout", step, micro, 0))
            made = generator_(torch.randn(len(real), 8, generator=g))
            (critic_loss(critic, teacher, real, made.detach()).mean() / accumulate).backward()
            if step % RATIO == 0:
                held = {name: p.detach() for name, p in critic.named_parameters()}
                fooled = torch.func.functional_call(critic, held, (made,))
                (-fooled[:, 0].mean() / accumulate).backward()
        for net, optimizer, average, n in zip(
            (generator_, critic), (first, second), averages, (step // RATIO + 1, step + 1), strict=True
        ):
            if net is critic or step % RATIO == 0:
                torch.nn.utils.clip_grad_norm_(net.parameters(), clip)
                optimizer.step()
                beta = 0.0 if n == 1 else min(0.9, n / (n + 9.0))
                for a, p in zip(average, net.parameters(), strict=True):
                    a.lerp_(p.detach(), 1 - beta)
    return generator_, critic, averages


def stream_of(data, accumulate):
    stream = TrainStream(
        Shuffled(len(data.train), data.seed),
        data.batch_size,
        flip=data.flip,
        world=1,
        rank=0,
        accumulate=accumulate,
        start=lambda: 0,
    )
    return (data.on_after_batch_transfer(batch, 0)["x"].flatten(1) for batch in data._loader(data.train, stream))


def same(module, other):
    return runs.equal(dict(module.state_dict()), dict(other.state_dict()))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_game_of_two_is_two_optimizers_by_hand_to_the_last_bit(accumulate):
    """Weights and averages of both after 11 steps with a ratio of 5, clipped, dropout and accumulation included."""
    _, task = trained(gradient_clip_val=CLIP, accumulate_grad_batches=accumulate)
    expected, critic, averages = written_out(accumulate=accumulate)
    assert same(task.generator, expected) and same(task.critic, critic)
    assert runs.equal([task.averages[name].averages["ema"] for name in ("generator", "critic")], averages)
    assert task.averages["generator"].updates == 3 and task.averages["critic"].updates == STEPS
    assert task.computed == [step for step in (0, 5, 10) for _ in range(accumulate)]


def test_a_frozen_part_stays_as_it_is_in_evaluation_mode_and_out_of_the_optimizer():
    trainer, task = trained()
    assert same(task.teacher, network(28 * 28, 1, 2))
    assert not task.teacher.training and not task.train().teacher.training and task.generator.training
    held = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}
    assert held == {id(p) for net in (task.generator, task.critic) for p in net.parameters()}
    assert not any(p.requires_grad or p.grad is not None for p in task.teacher.parameters())


def test_validation_sees_the_averages_of_all_that_have_some():
    _, task = trained()
    raw = [task.generator[0].weight.clone(), task.critic[0].weight.clone()]
    with task.averaged():
        inside = [task.generator[0].weight.clone(), task.critic[0].weight.clone()]
    assert runs.equal(inside, [task.averages[name].averages["ema"][0] for name in ("generator", "critic")])
    assert runs.equal(raw, [task.generator[0].weight, task.critic[0].weight])
    assert not torch.equal(raw[0], inside[0]) and not torch.equal(raw[1], inside[1])


@pytest.mark.slow
@pytest.mark.parametrize("cut", [5, 7], ids=["before an update of both", "between updates"])
def test_a_game_that_was_cut_off_ends_as_if_it_had_not_been(tmp_path, cut):
    settings = {"gradient_clip_val": CLIP, "accumulate_grad_batches": 2}
    _, straight = trained(**settings)
    trainer, task, data = trainer_and_task(
        [Checkpoints(str(tmp_path), 0)], **settings, limit_train_batches=2 * cut, max_epochs=1
    )
    with torch.random.fork_rng():
        trainer.fit(task, data)
    trainer.save_checkpoint(tmp_path / "cut.ckpt")
    checkpoint = torch.load(tmp_path / "cut.ckpt", weights_only=True)
    assert checkpoint["global_step"] == cut
    assert set(checkpoint["optimizer_states"][0]["networks"]) == {"generator", "critic"}
    assert list(checkpoint["averages"]) == ["critic"]
    trainer, task, data = trainer_and_task(**settings)
    with torch.random.fork_rng():
        trainer.fit(task, data, ckpt_path=tmp_path / "cut.ckpt", weights_only=True)
    assert same(task, straight)
    for name, average in straight.averages.items():
        assert runs.equal(task.averages[name].averages, average.averages)
        assert task.averages[name].updates == average.updates


def test_only_the_learned_network_is_averaged_unless_more_is_chosen(tmp_path):
    trainer, task = trained(averaged=False, max_steps=1)
    trainer.save_checkpoint(tmp_path / "plain.ckpt")
    assert list(task.averages) == ["generator"]
    assert "averages" not in torch.load(tmp_path / "plain.ckpt", weights_only=True)


def test_an_overflow_of_one_network_skips_the_step_of_all_and_the_ratio_goes_by_steps():
    """float16 with a gradient scaler, which starts too high: steps are skipped, and step 5 is the generator's still."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24, growth_interval=100)
    plugin = MixedPrecision("16-mixed", "cpu", scaler)
    _, task = trained(precision=None, plugins=[plugin], gradient_clip_val=CLIP)
    start = Game()
    assert task.computed == [0, 5, 10]
    assert scaler.get_scale() < 2.0**24
    assert all(p.isfinite().all() for p in task.parameters())
    assert not same(task.critic, start.critic) and not same(task.generator, start.generator)


def test_a_gradient_scaler_goes_on_where_it_was(tmp_path):
    """Its scale and the steps since it last grew, or later steps would be skipped, and grow, at other times."""

    def half(**settings):
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16, growth_interval=3)
        plugin = MixedPrecision("16-mixed", "cpu", scaler)
        trainer, task, data = trainer_and_task(precision=None, plugins=[plugin], gradient_clip_val=CLIP, **settings)
        return scaler, trainer, task, data

    scaler, trainer, straight, data = half()
    with torch.random.fork_rng():
        trainer.fit(straight, data)
    _, trainer, task, data = half(limit_train_batches=5, max_epochs=1)
    with torch.random.fork_rng():
        trainer.fit(task, data)
    trainer.save_checkpoint(tmp_path / "cut.ckpt")
    resumed, trainer, task, data = half()
    with torch.random.fork_rng():
        trainer.fit(task, data, ckpt_path=tmp_path / "cut.ckpt", weights_only=True)
    assert resumed.state_dict() == scaler.state_dict() and scaler.get_scale() != 2.0**16
    assert same(task, straight)


def test_bfloat16_keeps_weights_and_averages_in_single_precision():
    _, task = trained(precision="bf16-mixed", gradient_clip_val=CLIP)
    expected, critic, _ = written_out()
    assert {p.dtype for p in task.parameters()} == {torch.float32}
    for ours, theirs in ((task.generator, expected), (task.critic, critic)):
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=0.1, atol=0.02)


def test_tasks_that_cannot_be_trained_raise():
    class Idle(Game):
        learners = property(lambda self: {"generator": Learner(self.generator, self.optimizer, every=2)})

    class Forgetful(Game):
        learners = property(lambda self: {"generator": Learner(self.generator, self.optimizer)})

    trainer, _, data = trainer_and_task()
    with pytest.raises(ValueError, match=r"critic\.0\.weight requires a gradient"):
        trainer.fit(Forgetful(), data)
    idle = Idle()
    idle.critic.requires_grad_(False)
    with pytest.raises(ValueError, match="every=1"):
        trainer_and_task()[0].fit(idle, data)
    weight = nn.Parameter(torch.zeros(2))
    pair = {name: torch.optim.SGD([weight], 0.1) for name in "ab"}
    with pytest.raises(ValueError, match="more than one"):
        Together(pair, lambda name: True)
    one = Together({"a": torch.optim.SGD([weight], 0.1)}, lambda name: True)
    other = Together({"b": torch.optim.SGD([weight], 0.1)}, lambda name: True)
    with pytest.raises(UserError, match="optimizers of a and the task trains b"):
        other.load_state_dict(one.state_dict())


def test_a_state_in_which_one_optimizer_had_all_is_shared_out():
    """That of two Adams with equal settings is that of one, cut in two."""
    nets = [network(4, 2, 0), network(2, 3, 1)]
    one = torch.optim.Adam([p for net in nets for p in net.parameters()], 1e-2)
    schedule = torch.optim.lr_scheduler.LambdaLR(one, lambda step: 1.0)
    two = {name: torch.optim.Adam(net.parameters(), 1e-2) for name, net in zip("ab", nets, strict=True)}
    for _ in range(3):
        for net in nets:
            for p in net.parameters():
                p.grad = torch.sin(p.detach())
        before = [p.detach().clone() for net in nets for p in net.parameters()]
        one.step()
        schedule.step()
        with torch.no_grad():
            for p, value in zip((p for net in nets for p in net.parameters()), before, strict=True):
                p.copy_(value)
        for optimizer in two.values():
            optimizer.step()
    checkpoint = {"optimizer_states": [one.state_dict()], "lr_schedulers": [schedule.state_dict()]}
    adam = Adam(1e-2, 1, Constant())
    separated(checkpoint, {name: Learner(net, adam) for name, net in zip("ab", nets, strict=True)})
    (state,) = checkpoint["optimizer_states"]
    for name, optimizer in two.items():
        assert runs.equal(state["networks"][name]["state"], optimizer.state_dict()["state"])
    together = Together(two, lambda name: True)
    together.load_state_dict(state)
    torch.optim.lr_scheduler.LambdaLR(together, [lambda step: 1.0] * 2).load_state_dict(checkpoint["lr_schedulers"][0])


# --- two processes


def on_ranks(rank: int, folder: Path, port: int):
    torch.set_num_threads(1)
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "GROUP_RANK": 0}
    os.environ |= {key: str(value) for key, value in place.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "game"}
    _, task = trained(devices=2, strategy="ddp", max_steps=7, gradient_clip_val=CLIP)
    averages = {name: average.averages for name, average in task.averages.items()}
    torch.save({"weights": dict(task.state_dict()), "averages": averages}, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_play_one_game(tmp_path):
    """Networks whose objective is not computed in a step keep no rank waiting, and all ranks end with equal bits."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(on_ranks, (tmp_path, port), 2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert runs.equal(first, second)
    start = Game().state_dict()
    assert not torch.equal(first["weights"]["generator.0.weight"], start["generator.0.weight"])
    assert torch.equal(first["weights"]["teacher.0.weight"], start["teacher.0.weight"])
