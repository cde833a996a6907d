"""On a GPU: the same answers, tokens and FLOPs as on the CPU, in every number format. Skipped where there is none."""

from dataclasses import replace

import pytest
import torch

import vlm_families
from families import FAMILIES, make
from plans import plan_of, short
from saintprune import prune
from saintprune.adapters.vlm import VLM
from saintprune.config import names_in
from saintprune.evaluation.benchmark import Benchmark
from saintprune.evaluation.timing import BenchmarkSettings
from saintprune.hardware import detect
from saintprune.metrics.flops import count_flops
from saintprune.plan import Plan, Schedule, Stage
from saintprune.reduction.ward import Ward

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
PRUNINGS = names_in("pruning")
WARD = Stage("vision", "all", Ward(), schedule=Schedule(drop=0.5))


@pytest.fixture(autouse=True)
def _whole_float32(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def moved(inputs, *to):
    """Inputs on another device; numbers that are not whole in another type, too."""
    return {name: value.to(*(to if value.is_floating_point() else to[:1])) for name, value in inputs.items()}


@pytest.mark.parametrize("pruning", PRUNINGS)
def test_every_plan_is_the_cpus(pruning):
    plan = short(plan_of(pruning))
    if {stage.site for stage in plan.stages.values()} <= {"vision"}:
        net, adapter, images = make("vit")
        with adapter(net).pruned(plan) as run:
            expected, cost = net(images), count_flops(net, images)[0]
        net, images = net.cuda(), images.cuda()
        with adapter(net).pruned(plan) as there:
            torch.testing.assert_close(net(images).cpu(), expected, atol=1e-4, rtol=1e-4)
            assert count_flops(net, images)[0] == cost
        assert there.tokens_per_layer == pytest.approx(run.tokens_per_layer)
        net, images = net.bfloat16(), images.bfloat16()
        with adapter(net).pruned(plan):
            assert net(images).isfinite().all()
    net = vlm_families.build("llava")
    inputs = vlm_families.inputs("llava", net)
    with VLM(net).pruned(plan):
        expected = net(**inputs).logits
    net = net.cuda()
    with VLM(net).pruned(plan):
        found = net(**moved(inputs, "cuda")).logits
    torch.testing.assert_close(found.cpu(), expected, atol=1e-4, rtol=1e-4)
    net = net.bfloat16()
    with VLM(net).pruned(plan):
        assert net(**moved(inputs, "cuda", torch.bfloat16)).logits.isfinite().all()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_every_family_runs_in_every_type(family, dtype):
    net, adapter, images = make(family)
    net, images = net.to("cuda", dtype), images.to("cuda", dtype)
    unpruned = net(images)
    with adapter(net).pruned(Plan({"vision": WARD})):
        assert net(images).isfinite().all() and not torch.equal(net(images), unpruned)
    assert torch.equal(net(images), unpruned)


def test_answers_are_the_cpus():
    net = vlm_families.build("llava")
    inputs = vlm_families.inputs("llava", net)
    more = {"max_new_tokens": 6, "do_sample": False}
    with VLM(net).pruned(short(plan_of("saint_hybrid"))):
        expected = net.generate(**inputs, **more)
    net = net.cuda()
    with VLM(net).pruned(short(plan_of("saint_hybrid"))):
        assert torch.equal(net.generate(**moved(inputs, "cuda"), **more).cpu(), expected)


def test_three_lines_and_a_clock():
    net, adapter, images = make("vit")
    net, images = net.cuda(), images.cuda()
    with prune(net, "tome", flops=0.8, images=images) as pruned:
        assert pruned.calibrated.measured.flops <= 0.8 and net(images).is_cuda
    unpruned = net(images)
    with adapter(net).pruned(Plan({"vision": WARD}, defer=1.0)) as run:  # unsure of every image
        assert torch.equal(net(images), unpruned) and run.deferred.all()
    glance = replace(plan_of("glance_then_ward"), defer=1.0)
    with adapter(net).pruned(glance.second) as run:
        second, unsure = net(images), run.deferred
    with adapter(net).pruned(glance) as run:
        torch.testing.assert_close(net(images), second, atol=1e-4, rtol=1e-4)
        assert run.times_deferred.tolist() == [1 + again for again in unsure.tolist()]


def test_smaller_pictures_are_the_cpus():
    net, adapter, images = make("vit")
    plan = replace(short(plan_of("ward")), resize=0.5)
    with adapter(net).pruned(plan) as run:
        expected = net(images)
    net, images = net.cuda(), images.cuda()
    with adapter(net).pruned(plan) as there:
        torch.testing.assert_close(net(images).cpu(), expected, atol=1e-4, rtol=1e-4)
    assert there.tokens_per_layer == run.tokens_per_layer


def test_the_benchmark_asks_the_gpu_for_its_memory():
    net, adapter, images = make("vit")
    net, images = net.cuda(), images.cuda()
    plan = Plan({"vision": WARD})
    found = Benchmark(adapter(net), plan, [images], BenchmarkSettings(pairs=5, max_seconds=1)).run()
    assert found.baseline.peak_memory_mib > 0 and found.pruned.gflops < found.baseline.gflops
    assert found.selector_seconds > 0


def test_detection_finds_it():
    profile = detect()
    assert profile.device.type == "cuda" and profile.dtype == torch.bfloat16 and profile.device_name()
