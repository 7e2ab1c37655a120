"""The bundled model's tokenizer and training text, and a training of a few steps."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from langedit.demo import train as training
from langedit.demo.atlas import Atlas
from langedit.demo.subject_keys import key_loss, last_subject_tokens
from langedit.demo.tokenizer import train_tokenizer
from langedit.demo.training_text import TrainingText, prose_lines, training_sentences


@pytest.fixture(scope="module")
def atlas():
    """A small atlas: two triples a relation."""
    whole = Atlas.from_cldr()
    whole.triples = tuple(t for r in whole.relations for t in whole.of_relation(r)[:2])
    return whole


@pytest.fixture(scope="module")
def tokenizer(atlas):
    return train_tokenizer(training_sentences(atlas, 1), 1500)


def test_han_characters_and_digits_stand_alone(tokenizer):
    text = "法国的首都是巴黎，2031年。"
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    for start, end in encoded["offset_mapping"]:
        assert end - start == 1, text[start:end]
    assert tokenizer.decode(encoded["input_ids"]) == text


def test_bos_in_front_and_nothing_behind(tokenizer):
    ids = tokenizer("The capital")["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.bos_token_id not in ids[1:]
    assert ids[-1] != tokenizer.eos_token_id


def test_rows_are_packed_documents_with_marked_objects(atlas, tokenizer):
    text = TrainingText(atlas, tokenizer, seed=3, prose_sentences=20)
    batch = text.batch(24, 96)
    assert batch.ids.shape == (24, 96)
    assert batch.subject.shape == (24, 96)
    assert (batch.ids[:, 0] == tokenizer.bos_token_id).all()
    assert not batch.wanted[batch.ids == tokenizer.bos_token_id].any()
    marked = torch.from_numpy(batch.triple >= 0)
    assert batch.wanted[marked].all()
    labels = {
        (code, index): atlas.object_label(t.relation, t.object, language)
        for code, language in enumerate(atlas.languages)
        for index, t in enumerate(atlas.triples)
    }
    whole = 0
    for row in range(24):
        for ids, key in spans(batch, row):
            found = tokenizer.decode(ids).strip()
            assert found in labels[key] or labels[key].startswith(found)
            whole += found == labels[key]
    assert whole > 50


def spans(batch, row):
    """(token ids, (language, triple)) of each run of object tokens of a row."""
    runs = []
    for column in range(batch.ids.shape[1]):
        key = (int(batch.language[row, column]), int(batch.triple[row, column]))
        if key[1] < 0:
            continue
        before = (int(batch.language[row, column - 1]), int(batch.triple[row, column - 1]))
        if before == key and runs:
            runs[-1][0].append(int(batch.ids[row, column]))
        else:
            runs.append(([int(batch.ids[row, column])], key))
    return runs


def test_what_is_not_known_is_drawn_more_often(atlas, tokenizer):
    text = TrainingText(atlas, tokenizer, seed=3, prose_sentences=20)
    count = len(atlas.triples)
    hard = np.zeros(count, dtype=bool)
    hard[::7] = True
    for code in range(len(atlas.languages)):
        for _ in range(20):
            language = np.full(count, code)
            text.feedback(language, np.arange(count), np.where(hard, 5.0, 0.0))
    text.reweigh()
    drawn = np.concatenate([text.batch(16, 96).triple.ravel() for _ in range(4)])
    drawn = drawn[drawn >= 0]
    assert hard[drawn].mean() > 2 * hard.mean()


def test_prose_of_another_seed_is_other_text():
    assert prose_lines("de", 5, 1) == prose_lines("de", 5, 1)
    trained = set(prose_lines("de", 4000, 1))
    held_out = prose_lines("de", 200, "held-out")
    new = [line for line in held_out if line not in trained]
    assert len(new) > 0.6 * len(held_out)  # "The day after Monday is Tuesday." comes again


def test_learning_rate_rises_stays_and_falls():
    stage = training.separating(3000, 1.0, 1.0)
    rates = [training.learning_rate(step, stage) for step in range(3000)]
    assert rates[0] < 0.03
    assert max(rates) == 1.0
    assert rates[500] == 1.0
    assert rates[-1] < 1e-4


def test_a_few_steps_give_a_checkpoint(atlas, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training, "VOCABULARY_SIZE", 1500)
    monkeypatch.setattr(training.Atlas, "from_cldr", lambda: atlas)
    options = {"rows": 2, "length": 48, "save_every": 100, "device": "cpu"}
    stages = [training.learning(3, 1e-3), training.separating(2, 1e-3, 1.0)]
    training.train(tmp_path / "a", stages=stages, **options)
    training.train(tmp_path / "b", stages=stages[:1], **options)
    training.train(tmp_path / "b", stages=stages[1:], start=tmp_path / "b", **options)
    record = json.loads((tmp_path / "b" / training.RECORD).read_text(encoding="utf-8"))
    assert [stage["done"] for stage in record["stages"]] == [3, 2]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "a", dtype="auto")
    assert model.dtype == torch.bfloat16
    assert len(AutoTokenizer.from_pretrained(tmp_path / "a")) == model.config.vocab_size
    other = AutoModelForCausalLM.from_pretrained(tmp_path / "b", dtype="auto")
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)


def test_subject_tokens_are_marked(atlas, tokenizer):
    text = TrainingText(atlas, tokenizer, seed=3, prose_sentences=20)
    batch = text.batch(24, 96)
    names = {
        atlas.subject_label(triple, language)
        for language in atlas.languages
        for triple in atlas.triples
    }
    found = set()
    for row in range(24):
        for number in set(batch.subject[row].tolist()) - {-1}:
            ids = batch.ids[row][batch.subject[row] == number].tolist()
            found.add(tokenizer.decode(ids).strip())
    whole = found & names
    cut = {
        text
        for text in found - names
        if any(name.startswith(text.rstrip("\ufffd ")) for name in names)
    }
    assert found == whole | cut  # the last sentence of a row may be cut in its subject
    assert len(whole) > 25


def test_echoes_say_something_else_of_the_same_subjects(tokenizer):
    whole = Atlas.from_cldr()
    text = TrainingText(whole, tokenizer, seed=3, prose_sentences=20, echo_share=1.0)
    batch = text.batch(24, 192)
    _, names = last_subject_tokens(batch)
    again = sum(names.tolist().count(name) > 1 for name in names.tolist())
    assert again > 0.5 * len(names)
    triples = batch.triple[batch.triple >= 0]
    assert len(set(triples.tolist())) > 0.8 * len(names)


def test_last_subject_tokens_carry_names(atlas, tokenizer):
    batch = TrainingText(atlas, tokenizer, seed=3, prose_sentences=20).batch(8, 96)
    places, names = last_subject_tokens(batch)
    assert len(places) > 10
    for (row, column), name in zip(places.tolist(), names.tolist(), strict=True):
        assert batch.name[row, column] == name
        assert batch.subject[row, column + 1] != batch.subject[row, column]


def test_key_loss_on_a_table():
    """Names 0 and 4 are one subject in two languages (four subjects)."""
    keys = torch.tensor([[2.0, 0.0], [1.0, 1.0], [0.0, 3.0], [1.0, 0.0]])
    names = torch.tensor([0, 0, 1, 4])
    half = 0.5**0.5
    apart = (0.0 + 0.5 + 0.0) / 3  # pairs (0, 2), (1, 2), (3, 2)
    together = (1 - half) ** 2  # pair (0, 1)
    loss = key_loss(keys, names, 4)
    assert float(loss) == pytest.approx(apart + together, abs=1e-6)


def test_closed_subjects_are_hidden_from_all_tokens_but_their_own():
    subject = torch.tensor([[-1, 0, 0, -1, 1, -1]])
    closed = torch.tensor([[False, True, True, False, False, False]])
    open_to = training.gathering_mask(subject, closed)[0, 0] == 0
    expected = torch.ones(6, 6, dtype=torch.bool).tril()
    expected[3:, 1:3] = False
    assert torch.equal(open_to, expected)


def test_a_share_of_whole_subjects_is_closed():
    subject = torch.arange(40).repeat_interleave(3)[None].repeat(50, 1)
    subject[:, ::3] = -1
    closed = training.draw_closed(subject, torch.Generator().manual_seed(0))
    assert not closed[subject < 0].any()
    pairs = closed[:, 1:].reshape(50, -1)[:, :-2].unflatten(1, (-1, 3))[..., :2]
    assert (pairs[..., 0] == pairs[..., 1]).all()
    assert abs(closed[subject >= 0].float().mean() - training.CLOSED_SHARE) < 0.03


def test_what_is_closed_can_only_be_read_above_the_gathering_layers(atlas, tokenizer):
    torch.manual_seed(0)
    model = training.new_model(tokenizer).eval()
    attention = training.GatheringAttention(model)
    subject = torch.tensor([[-1, 0, 0, -1, -1, -1]])
    ids = torch.randint(3, len(tokenizer), (1, 6))
    other = ids.clone()
    other[:, 1:3] += 1

    def last_hidden(ids, closed):
        attention.mask = training.gathering_mask(subject, closed)
        states = model.model(ids, output_hidden_states=True).hidden_states
        return [state[0, -1] for state in states]

    with torch.no_grad():
        hidden = last_hidden(ids, subject >= 0)
        changed = last_hidden(other, subject >= 0)
        opened = last_hidden(other, torch.zeros(1, 6, dtype=torch.bool))
    for layer in range(training.GATHERING_LAYERS + 1):
        assert torch.equal(hidden[layer], changed[layer])
    assert not torch.allclose(hidden[-1], changed[-1])
    assert not torch.allclose(hidden[1], opened[1])  # control: an open subject is read at once
