"""`--model saintprune` inside lmms-eval: its registry, its parser, its evaluator, on a random model without downloads.

Needs lmms-eval, which lives in an environment of its own (`make test-lmms`); elsewhere only the first test runs.
"""

import json
import sys
import warnings

import pytest
import torch
from PIL import Image

from saintprune.errors import SaintpruneError

# importing lmms-eval, and what it imports, warns of many things
pytestmark = pytest.mark.filterwarnings("default")

OVERRIDES = "~model.net;+model.net={_target_:tiny_vlm.load};pruning.stages.language.layers=[1]"
MODEL_ARGS = f"model=vlm_s14_smollm2,pruning=drop75/attention_language,overrides={OVERRIDES}"
QUESTIONS = ["What colour is this?", "Where?", "Which of the two?"]
CHOICES = ["yes", "no", "a panel", "a cell"]
TASKS = {
    "tiny_generate": {
        "output_type": "generate_until",
        "doc_to_target": "gold",
        "generation_kwargs": {"max_new_tokens": 6, "temperature": 0, "do_sample": False, "until": ["\n\n"]},
        "metric_list": [{"metric": "bypass"}],
    },
    "tiny_choices": {
        "output_type": "multiple_choice",
        "doc_to_target": "gold",
        "doc_to_choice": "choices",
        "metric_list": [{"metric": "acc"}],
    },
}


def test_without_lmms_eval_one_line_says_what_to_install(monkeypatch) -> None:
    monkeypatch.delitem(sys.modules, "saintprune.integrations.lmms_eval", raising=False)
    monkeypatch.setitem(sys.modules, "lmms_eval.api.instance", None)
    with pytest.raises(SaintpruneError, match=r"^lmms-eval cannot be imported .*: install it .* 'saintprune\[lmms\]'$"):
        import saintprune.integrations.lmms_eval  # noqa: F401


@pytest.fixture(scope="module")
def evaluator():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("lmms_eval.evaluator")


@pytest.fixture(scope="module")
def lm(evaluator):
    """The model, made as `lmms-eval --model saintprune --model_args … --batch_size 2 --device cpu` makes it."""
    from lmms_eval.models import get_model

    return get_model("saintprune").create_from_arg_string(MODEL_ARGS, {"batch_size": "2", "device": "cpu"})


@pytest.fixture(scope="module")
def documents():
    images = [torch.randint(256, (60, 80, 3), generator=torch.Generator().manual_seed(n)) for n in range(3)]
    return [
        {"question": question, "image": Image.fromarray(image.byte().numpy()), "choices": CHOICES}
        for question, image in zip(QUESTIONS, images, strict=True)
    ]


@pytest.fixture
def tasks(tmp_path, documents, lm):
    """A folder of tasks whose right choice is the one that the model finds the likeliest."""
    lines = []
    for number, document in enumerate(documents):
        document["image"].save(tmp_path / f"{number}.png")
        scores = lm.vlm.score(
            [document["question"]] * 4, [[document["image"]]] * 4, [f" {choice}" for choice in CHOICES]
        )
        gold = max(range(4), key=lambda choice: scores[choice][0])
        lines.append({**document, "image": str(tmp_path / f"{number}.png"), "gold": gold})
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "visuals.py").write_text(
        "from PIL import Image\n\ndef look(document):\n    return [Image.open(document['image'])]\n"
    )
    for name, task in TASKS.items():
        settings = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {
                "data_files": {"test": str(tmp_path / "test.jsonl")},
                "cache_dir": str(tmp_path / "cache"),
            },
            "test_split": "test",
            "doc_to_text": "question",
            **task,
        }
        text = json.dumps(settings)[:-1] + ', "doc_to_visual": !function visuals.look}'  # JSON is YAML
        (tmp_path / f"{name}.yaml").write_text(text)
    return tmp_path


def evaluate(evaluator, lm, folder, task):
    """Return the results of lmms-eval's own evaluation."""
    from lmms_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(folder), include_defaults=False)
    return evaluator.simple_evaluate(lm, tasks=[task], task_manager=manager, batch_size=2, bootstrap_iters=0)


def test_lmms_eval_finds_the_model(evaluator) -> None:
    from lmms_eval.models import get_model, list_available_models

    from saintprune.integrations.lmms_eval import Saintprune

    assert "saintprune" in list_available_models()
    assert get_model("saintprune") is Saintprune


def test_model_args_reach_the_model(lm) -> None:
    assert lm.batch_size == 2
    assert str(lm.device) == "cpu"
    assert [*lm.vlm.plan.stages] == ["language"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"batch_size": "auto"}, "batch_size is 'auto'"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"overrides": "cpu"}, "overrides has 'cpu'"),
        ({"device": "tpu"}, "hardware/tpu"),
    ],
)
def test_a_mistake_is_one_clear_line(evaluator, given, says) -> None:
    from saintprune.integrations.lmms_eval import Saintprune

    with pytest.raises(SaintpruneError, match=says) as error:
        Saintprune("vlm_s14_smollm2", **given)
    assert "\n" not in str(error.value)


def test_generation_through_the_evaluator(evaluator, lm, tasks, documents) -> None:
    from saintprune.integrations.decoding import Decoding

    results = evaluate(evaluator, lm, tasks, "tiny_generate")
    samples = sorted(results["samples"]["tiny_generate"], key=lambda sample: sample["doc_id"])
    decoding = Decoding(6, ("\n\n",))
    expected = [lm.vlm.generate([one["question"]], [[one["image"]]], decoding)[0] for one in documents]
    assert [sample["resps"][0][0] for sample in samples] == [answer.text for answer in expected]
    assert [sample["token_counts"][0]["output_tokens"] for sample in samples] == [answer.tokens for answer in expected]
    assert results["throughput"]["avg_visual_tokens"] == 16 * (1 + 3 * 0.25) / 4  # 16 patches, 12 dropped after layer 1


def test_the_likeliest_choice_is_what_lmms_eval_takes_for_the_answer(evaluator, lm, tasks) -> None:
    results = evaluate(evaluator, lm, tasks, "tiny_choices")
    assert results["results"]["tiny_choices"]["acc,none"] == 1.0


def test_requests_with_images_without_and_in_several_settings_come_back_in_order(lm, documents) -> None:
    from lmms_eval.api.instance import Instance

    lm.task_dict["mixed"] = {"test": documents}
    requests = [
        Instance(
            "generate_until",
            (
                f"{'again, ' * number}{document['question']}",
                {"max_new_tokens": 3 + number % 2},
                (lambda document: [document["image"]]) if number % 3 else (lambda document: None),
                number % len(documents),
                "mixed",
                "test",
            ),
            idx=0,
            metadata={"task": "mixed", "doc_id": number, "repeats": 1},
        )
        for number, document in enumerate(documents * 2)
    ]
    together = [answer.text for answer in lm.generate_until(requests)]
    assert together == [lm.generate_until([request])[0].text for request in requests]


def test_videos_are_refused_in_one_line(evaluator) -> None:
    from saintprune.integrations.lmms_eval import as_image

    with pytest.raises(SaintpruneError, match=r"task clips gives str 'a.mp4', but --model saintprune looks at images"):
        as_image("a.mp4", "clips")
