"""Second moments collected from tiny models, against one text at a time and the recorded run."""

from __future__ import annotations

from itertools import pairwise

import pytest
import tiny
import torch
from golden import RUNS, GoldenRun, distance
from torch import Tensor, nn

from langedit.editing import Moments, collect
from langedit.editing.angles import AngleGoal
from langedit.editing.collect import collect_moments
from langedit.editing.corpus import CorpusFingerprint
from langedit.editing.key_pool import KeyPool
from langedit.errors import ConfigError, ModelError, MomentsError, NumericalError
from langedit.models import EditableModel, Recorder, pad_batch

LANGUAGES = ["en", "en", "de", "nl", "es", "fr", "zh", "ja", "th", "ru"]
CORPUS = list(zip(LANGUAGES, tiny.SENTENCES, strict=True))


def keys_one_by_one(
    model: EditableModel, texts: list[str], layer: int, limit: int | None = None
) -> Tensor:
    """The plain way: one text, no padding, the whole pass."""
    name = model.projection_name(layer)
    found = []
    for text in texts:
        ids = model.tokenizer(text)["input_ids"][:limit]
        with torch.no_grad(), Recorder(model.model, inputs=[name]) as record:
            model.logits(pad_batch([ids], model.pad_id))
        found.append(record.inputs[name].flatten(0, -2).double())
    return torch.cat(found)


def mean_outer(keys: Tensor) -> Tensor:
    return keys.T @ keys / len(keys)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gptj", "bloom", "opt", "gemma2"])
def test_equals_one_text_at_a_time(family: str) -> None:
    model = tiny.tiny_editable(family, bos=True)
    moments = collect_moments(model, CORPUS, [2, 0], batch_tokens=100, sample=7)
    assert list(moments.layers) == [0, 2]
    assert moments.identity == model.identity()
    for number, layer in moments.layers.items():
        keys = keys_one_by_one(model, [text for _, text in CORPUS], number)
        assert layer.moment.count == len(keys)
        assert layer.weight_name == model.weight_name(number)
        # float32 forward passes in batches of another shape
        torch.testing.assert_close(layer.moment.mean, mean_outer(keys), rtol=1e-4, atol=1e-6)
        assert layer.sample.shape == (7, model.structure.d_in)
        nearest = torch.cdist(layer.sample.double(), keys).amin(dim=1)
        assert nearest.max() < 1e-4 * keys.norm(dim=1).max()


def test_counts_by_language_include_special_tokens() -> None:
    model = tiny.tiny_editable(bos=True)
    moments = collect_moments(model, CORPUS, [1])
    layer = moments.layers[1]
    expected: dict[str, int] = {}
    for language, text in CORPUS:
        ids = model.tokenizer(text)["input_ids"]
        assert ids[0] == model.tokenizer.bos_token_id
        expected[language] = expected.get(language, 0) + len(ids)
    assert dict(layer.counts) == expected
    assert list(layer.counts) == sorted(expected)


def test_padding_and_batches_make_no_difference() -> None:
    model = tiny.tiny_editable()
    alone = collect_moments(model, CORPUS, [1], batch_tokens=1).layers[1].moment
    together = collect_moments(model, CORPUS, [1], batch_tokens=10**6).layers[1].moment
    assert alone.count == together.count
    torch.testing.assert_close(alone.mean, together.mean, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("until", [None, AngleGoal(degrees=5.0, null_share=0.5)])
def test_products_in_float32_say_what_they_lost(until: AngleGoal | None) -> None:
    model = tiny.tiny_editable(bos=True)
    exact, single = (
        collect_moments(model, CORPUS * 3, [1], until=until, precision=precision).layers[1].moment
        for precision in (torch.float64, torch.float32)
    )
    assert exact.rounding == 0.0
    lost = float(torch.linalg.matrix_norm(single.mean - exact.mean))
    assert 0 < lost < 1e-5 * float(torch.linalg.matrix_norm(exact.mean))
    assert 0.3 * lost <= single.rounding <= 3 * lost
    with pytest.raises(ConfigError, match="float64 or float32, got"):
        collect_moments(model, CORPUS, [1], precision=torch.float16)


def test_the_pass_stops_after_the_last_layer_asked_for() -> None:
    model = tiny.tiny_editable()
    assert model.can_pack(1)  # what is run to find that out comes first
    ran: list[int] = []
    for number in range(3):
        model.layer(number).register_forward_pre_hook(lambda *_, n=number: ran.append(n))
    collect_moments(model, CORPUS[:1], [0, 1])
    assert ran == [0, 1]


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_last_projection_does_not_run_and_the_bits_are_the_same(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny.tiny_editable(family)
    assert model.behaviour  # what is run to find that out comes first
    ran = {layer: tiny.count_calls(model.projection(layer)) for layer in range(3)}
    found = collect_moments(model, CORPUS, [0, 1], batch_tokens=100)
    batches = len(ran[0])
    assert batches > 1
    assert not ran[1]
    assert not ran[2]

    def to_the_end(model: nn.Module, inputs: list[str], stop_before: str) -> Recorder:
        return Recorder(model, inputs, stop_after=stop_before)

    monkeypatch.setattr(collect, "Recorder", to_the_end)
    whole = collect_moments(model, CORPUS, [0, 1], batch_tokens=100)
    assert len(ran[1]) == batches  # control
    for layer, own in found.layers.items():
        assert torch.equal(own.moment.mean, whole.layers[layer].moment.mean)
        assert torch.equal(own.sample, whole.layers[layer].sample)


def test_token_budget_is_exact_and_the_fingerprint_is_of_the_texts_used() -> None:
    model = tiny.tiny_editable()
    first = len(model.tokenizer(CORPUS[0][1])["input_ids"])
    moments = collect_moments(model, iter(CORPUS), [1], max_tokens=first + 3)
    assert moments.layers[1].moment.count == first + 3
    used = CorpusFingerprint()
    for language, text in CORPUS[:2]:
        used.add(language, text)
    assert moments.corpus == used.hexdigest()
    assert collect_moments(model, CORPUS, [1]).corpus != moments.corpus


@pytest.mark.parametrize(("max_length", "expected"), [(None, 16), (9, 9), (99, 16)])
def test_texts_are_cut_at_the_length_of_the_model(max_length: int | None, expected: int) -> None:
    model = tiny.tiny_editable(max_position_embeddings=16)
    assert len(model.tokenizer(CORPUS[0][1])["input_ids"]) > 16
    moments = collect_moments(model, CORPUS[:1], [0], max_length=max_length)
    assert moments.layers[0].moment.count == expected
    keys = keys_one_by_one(model, [CORPUS[0][1]], 0, expected)
    torch.testing.assert_close(
        moments.layers[0].moment.mean, mean_outer(keys), rtol=1e-4, atol=1e-7
    )


def test_partial_results_merge_to_the_whole() -> None:
    model = tiny.tiny_editable()
    whole = collect_moments(model, CORPUS, [0, 1])
    parts = [collect_moments(model, part, [0, 1]) for part in (CORPUS[:4], CORPUS[4:])]
    merged = parts[0].merge(parts[1])
    for number, layer in merged.layers.items():
        assert layer.moment.count == whole.layers[number].moment.count
        assert dict(layer.counts) == dict(whole.layers[number].counts)
        torch.testing.assert_close(
            layer.moment.mean, whole.layers[number].moment.mean, rtol=1e-4, atol=1e-7
        )


def test_same_inputs_and_seed_give_the_same_results() -> None:
    model = tiny.tiny_editable()
    first, second, other = (
        collect_moments(model, CORPUS, [0, 1], sample=20, batch_tokens=64, seed=seed)
        for seed in (1, 1, 2)
    )
    for number in (0, 1):
        assert torch.equal(first.layers[number].sample, second.layers[number].sample)
        assert torch.equal(first.layers[number].moment.mean, second.layers[number].moment.mean)
        assert not torch.equal(first.layers[number].sample, other.layers[number].sample)


def test_sample_is_uniform_over_the_stream() -> None:
    """Over 200 seeds each of the tokens is drawn about equally often, early or late."""
    model = tiny.tiny_editable()
    corpus = CORPUS[:2]
    everything = collect_moments(model, corpus, [0], sample=10**6, batch_tokens=20).layers[0]
    total = everything.moment.count
    assert len(everything.sample) == total
    ordered = keys_one_by_one(model, [text for _, text in corpus], 0)
    hits = torch.zeros(total)
    for seed in range(200):
        drawn = collect_moments(model, corpus, [0], sample=5, batch_tokens=20, seed=seed).layers[0]
        hits[torch.cdist(drawn.sample.double(), ordered).argmin(dim=1)] += 1
    share = 200 * 5 / total
    # binomial: mean 200·5/total, standard deviation below its root; 5 of them
    assert (hits - share).abs().max() < 5 * share**0.5


def test_progress_and_empty_texts() -> None:
    model, seen = tiny.tiny_editable(), list[int]()
    moments = collect_moments(
        model, [("en", ""), *CORPUS], [1], batch_tokens=50, progress=seen.append
    )
    assert len(seen) > 2
    assert seen == sorted(seen)
    assert seen[-1] == moments.layers[1].moment.count


def test_what_cannot_be_collected() -> None:
    model = tiny.tiny_editable()
    with pytest.raises(MomentsError, match="at least one token"):
        collect_moments(model, [("en", "")], [1])
    with pytest.raises(ConfigError, match="at least one layer"):
        collect_moments(model, CORPUS, [])
    with pytest.raises(ModelError, match="layer"):
        collect_moments(model, CORPUS, [0, 3])
    for name in ("max_tokens", "batch_tokens", "max_length"):
        with pytest.raises(ConfigError, match=f"{name}: expected at least 1, got 0"):
            collect_moments(model, CORPUS, [1], **{name: 0})
    with pytest.raises(ConfigError, match="sample: expected at least 0"):
        collect_moments(model, CORPUS, [1], sample=-1)
    model.model.train()
    with pytest.raises(ModelError, match="evaluation mode"):
        collect_moments(model, CORPUS, [1])


def test_a_model_that_overflows_is_an_error() -> None:
    model = tiny.tiny_editable()
    with torch.no_grad():
        model.projection(0).weight.fill_(1e38)
    with pytest.raises(NumericalError, match=r"^layer 1, .* text '.*': keys: .* not finite"):
        collect_moments(model, CORPUS, [1])


@pytest.mark.parametrize("family", ["llama", "bloom"])  # many texts in a row, and one
@pytest.mark.parametrize("until", [None, AngleGoal(degrees=1.0, null_share=0.5)])
def test_the_text_whose_keys_are_not_finite_is_named(family: str, until: AngleGoal | None) -> None:
    model = tiny.tiny_editable(family)
    texts = [("en", "The water is in Peru"), ("de", "Wien"), ("nl", "X東Z"), ("en", "Paris")]
    (token, *_) = model.tokenizer("東")["input_ids"]
    assert not any(token in model.tokenizer(text)["input_ids"] for _, text in texts[:2])

    def spoil(_module: object, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> object:
        return output.masked_fill((args[0] == token).unsqueeze(-1), torch.nan)

    model.model.get_input_embeddings().register_forward_hook(spoil)
    with pytest.raises(NumericalError, match=r"^layer 0, nl text 'X東Z': keys: .* not finite"):
        collect_moments(model, texts, [0, 1], until=until)
    assert collect_moments(model, [texts[i] for i in (0, 1, 3)], [0, 1]).layers[0].moment.count


@pytest.mark.golden
@pytest.mark.parametrize("name", RUNS)
def test_recorded_second_moments(name: str) -> None:
    """The published code's statistics over 1,200 texts: same tokens, float32 sums."""
    run = GoldenRun(name)
    texts = run.read_json("second_moment_texts")
    moments = collect_moments(run.model(), (("en", text) for text in texts), [1, 2])
    recorded = run.read_tensors("second_moments")
    for number, layer in moments.layers.items():
        assert layer.moment.count == run.spec["second_moment_counts"][str(number)]
        assert distance(layer.moment.mean, recorded[f"layer{number}/second_moment"]) <= 2e-6


def test_halves_are_dealt_by_language_and_their_angle_is_kept(tmp_path) -> None:
    model = tiny.tiny_editable()
    corpus = [(language, f"{text} {n}") for n in range(40) for language, text in CORPUS[:6:2]]
    looks: list[int] = []
    goal = AngleGoal(degrees=1e-6, null_share=0.5, on_look=lambda tokens, _: looks.append(tokens))
    moments = collect_moments(model, corpus, [0, 1], until=goal, batch_tokens=200)
    plain = collect_moments(model, corpus, [0, 1], batch_tokens=200)
    assert len(looks) > 2
    assert looks[-1] == moments.layers[0].moment.count
    assert all(later >= 1.5 * earlier for earlier, later in pairwise(looks[:-1]))
    # the halves, made by hand: every other text of each language
    parts = [
        [pair for own in ("en", "de", "es") for pair in [p for p in corpus if p[0] == own][half::2]]
        for half in (0, 1)
    ]
    halves = [collect_moments(model, part, [0, 1]).layers for part in parts]
    for layer, own in moments.layers.items():
        expected = goal.measure(halves[0][layer].moment, halves[1][layer].moment)
        assert own.angle is not None
        assert own.angle.degrees == pytest.approx(expected.degrees, rel=1e-2)
        assert own.angle.tokens == expected.tokens
        torch.testing.assert_close(
            own.moment.mean, plain.layers[layer].moment.mean, rtol=1e-10, atol=1e-12
        )
        assert plain.layers[layer].angle is None
    moments.save(tmp_path)
    again = Moments.load(tmp_path)
    assert again.layers[0].angle == moments.layers[0].angle


def test_collecting_stops_when_the_angle_is_small_enough() -> None:
    model = tiny.tiny_editable()
    corpus = [("en", CORPUS[n % 3][1]) for n in range(400)]
    goal = AngleGoal(degrees=30.0, null_share=0.5)
    moments = collect_moments(model, corpus, [1], until=goal, batch_tokens=100)
    count = sum(len(model.tokenizer(text)["input_ids"]) for _, text in corpus)
    assert moments.layers[1].moment.count < count
    angle = moments.layers[1].angle
    assert angle is not None
    assert angle.degrees < 30.0
    assert angle.tokens == moments.layers[1].moment.count


@pytest.mark.parametrize(
    "settings", [{"degrees": 0.0, "null_share": 0.5}, {"degrees": 5.0}, {"degrees": 90.0}]
)
def test_goals_out_of_range(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="angle"):
        AngleGoal(**settings)


@pytest.mark.parametrize("family", ["llama", "bloom"])  # many texts in a row, and one
def test_out_of_memory_halves_the_rows_and_changes_nothing(family: str) -> None:
    model = tiny.tiny_editable(family, bos=True)
    corpus = CORPUS * 12
    expected = collect_moments(model, corpus, [0, 2], batch_tokens=2048, sample=7)
    rows_seen: list[int] = []
    limit = 1

    def small(_module: object, args: tuple[Tensor, ...]) -> None:
        rows_seen.append(len(args[0]))
        if rows_seen[-1] > limit:
            raise torch.OutOfMemoryError("out of memory")

    handle = model.model.get_input_embeddings().register_forward_pre_hook(small)
    found = collect_moments(model, corpus, [0, 2], batch_tokens=2048, sample=7)
    assert rows_seen[0] > 2
    assert rows_seen[1] == rows_seen[0] // 2
    for number, layer in found.layers.items():
        other = expected.layers[number]
        assert layer.counts == other.counts
        torch.testing.assert_close(layer.moment.mean, other.moment.mean, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(layer.sample, other.sample, rtol=1e-3, atol=1e-5)
    rows_seen.clear()
    collect_moments(model, corpus, [0, 2], batch_tokens=2048, sample=7)
    assert max(rows_seen) <= limit  # what did not fit is not tried again
    limit = 0
    with pytest.raises(MomentsError, match=r"room for \d+ tokens at once.*lower batch_tokens"):
        collect_moments(model, corpus, [0, 2], batch_tokens=2048)
    handle.remove()


def test_a_first_look_at_what_float32_does_not_resolve_names_the_layer() -> None:
    model = tiny.tiny_editable(bos=True)
    goal = AngleGoal(degrees=1.0, null_threshold=1e-9)
    collect_moments(model, CORPUS * 3, [1], until=goal)  # the control
    with pytest.raises(NumericalError, match=r"^layer 1: second moment: expected one that is"):
        collect_moments(model, CORPUS * 3, [1], until=goal, precision=torch.float32)


def test_sums_in_float64_are_never_left_to_a_device_without_it(monkeypatch) -> None:
    model = tiny.tiny_editable()
    monkeypatch.setattr(type(model), "projection_device", lambda *_: torch.device("mps"))
    pool = KeyPool(model, [0, 1], 4, 0, halves=True, products=torch.float64)
    sums = [own for half in pool._sums for own in half]
    assert {(own.device.type, own.compensated, own.products) for own in sums} == {
        ("cpu", False, torch.float64)
    }
