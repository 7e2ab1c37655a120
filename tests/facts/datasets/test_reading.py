"""Each format, in rows of our own: its facts, and what it rejects."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from langedit.errors import ConfigError, FactError
from langedit.facts import Fact, Probe
from langedit.facts.datasets import FORMATS, ReadOptions, examine_dataset, read_dataset

EN = {
    "subject": "Ada King",
    "src": "Where does Ada King live?",
    "rephrase": "In what town does Ada King live?",
    "alt": " Oslo ",
    "loc": "nq question: who built the old mill",
    "loc_ans": "Tom",
}
NL = {
    "subject": "Ada Koning",
    "src": "Waar woont Ada King?",
    "rephrase": "In welke stad woont Ada King?",
    "alt": "Oslo",
    "loc": "Wie bouwde de oude molen?",
    "loc_ans": "Tom",
}
PORTABILITY = {"New Question": "In what country does Ada King live?", "New Answer": "Norway"}
PORT = {"port": "In what country does Ada King live?", "port_ans": "Norway"}
ROME = {
    "case_id": 7,
    "requested_rewrite": {
        "prompt": "{} plays the",
        "subject": "Ada King",
        "target_new": {"str": "flute", "id": "Q1"},
        "target_true": {"str": "harp", "id": "Q2"},
    },
    "paraphrase_prompts": ["It rained. Ada King plays the"],
    "neighborhood_prompts": ["Tom Hill plays the", "Jo Dale plays the"],
}
EASYEDIT = {
    "case_id": 7,
    "prompt": "Ada King plays the",
    "subject": "Ada King",
    "target_new": "flute",
    "ground_truth": "harp",
    "rephrase_prompt": "Ada King is best at the",
    "locality_prompt": "Tom Hill plays the",
    "locality_ground_truth": "drum",
}
MLAKE = {
    "question": "Wo wohnt Ada King heute?",
    "o_prompt": "Ada King wohnt in Bonn.",
    "o_answer": "Bonn",
    "e_prompt": "Ada King wohnt in Oslo.",
    "e_answer": "Oslo",
}
MZSRE = {"en": EN | {"portability": PORTABILITY}, "du": NL}
BMIKE = {
    "en": EN | PORT | {"case_id": 365, "old": "Bonn"},
    "nl": NL | PORT | {"case_id": 365, "old": "Bonn"},
}
BZSRE = {
    "subject": "秘鲁",
    "src": "秘鲁的首都是哪里？",
    "rephrase": "哪座城市是秘鲁的首都？",
    "alt": "奥斯陆",
    "loc": "谁建了老磨坊？",
    "loc_ans": "汤姆",
    "alt_statement": "秘鲁的首都是奥斯陆。",
    "gold_statement": "秘鲁的首都是利马。",
}
OWN = {"language": "nl", "prompt": "{} woont in", "subject": "Ada King", "target": "Oslo"}

RECORDS = {
    "langedit": OWN,
    "mzsre": MZSRE,
    "bmike": BMIKE,
    "zsre": EN,
    "bzsre": BZSRE,
    "counterfact": ROME,
    "counterfact-easyedit": EASYEDIT,
    "mlake": MLAKE,
}
ENGLISH = Fact(
    language="en",
    prompt="Where does {} live?",
    subject="Ada King",
    target="Oslo",
    paraphrases=("In what town does Ada King live?",),
    neighbourhood=(Probe("who built the old mill", "Tom"),),
    group="0",
    id="en/0",
)
ANYHOW = ReadOptions(missing_subject="english-subject")


@pytest.fixture
def data(tmp_path):
    """Writes records as a JSON array."""

    def write(*records, name="data.json"):
        path = tmp_path / name
        path.write_text(json.dumps(records, ensure_ascii=False, indent=1), encoding="utf-8")
        return path

    return write


def test_every_format_has_a_record_here():
    assert list(RECORDS) == [known.name for known in FORMATS]


@pytest.mark.parametrize("name", RECORDS)
def test_formats_are_told_by_their_fields_and_can_be_stated(data, name):
    path = data(RECORDS[name], name="de_data.json")
    told = read_dataset(path, options=ANYHOW)
    assert told.format == name
    assert told.rejected == ()
    assert read_dataset(path, format=name, options=ANYHOW) == told


def test_mzsre(data):
    file = read_dataset(data(MZSRE), options=ANYHOW)
    english, dutch = file.entries
    assert english.fact == replace(ENGLISH, portability=(Probe(*PORTABILITY.values()),))
    assert (english.key, english.found) == ("0", "as given")
    assert (dutch.fact.language, dutch.fact.id, dutch.key) == ("nl", "nl/0", "0")
    assert dutch.fact.group == english.fact.group
    assert (dutch.fact.prompt, dutch.fact.subject) == ("Waar woont {}?", "Ada King")
    assert dutch.found == "English subject"
    assert dutch.fact.neighbourhood == (Probe("Wie bouwde de oude molen?", "Tom"),)


def test_a_missing_subject_is_rejected_by_default(data):
    path = data(MZSRE)
    file = read_dataset(path)
    assert [fact.id for fact in file.facts] == ["en/0"]
    (row,) = file.rejected
    assert (row.file, row.line, row.field, row.language) == (str(path), 2, "[0].du.subject", "nl")
    assert "expected 'Ada Koning' in 'Waar woont Ada King?'" in row.reason
    assert "a wider rule for missing subjects than reject" in row.reason
    with pytest.raises(FactError, match=r"got 1 rejected rows of 2(?s:.*)\[0\]\.du\.subject"):
        read_dataset(path, strict=True)


def test_the_prefix_of_natural_questions_can_be_kept(data):
    (entry,) = read_dataset(data(EN), options=ReadOptions(keep_nq_prefix=True)).entries
    assert entry.fact.neighbourhood[0].prompt == EN["loc"]


def test_bmike(data):
    lonely = {"en": BMIKE["en"] | {"case_id": 366}}
    file = read_dataset(data(BMIKE, lonely), options=ANYHOW)
    assert [entry.fact.id for entry in file.entries] == ["en/365", "nl/365", "en/366"]
    assert {entry.fact.old for entry in file.entries} == {"Bonn"}
    assert file.entries[1].fact.portability == (Probe(*PORT.values()),)
    (row,) = file.rejected
    assert (row.field, row.language) == ("[1].nl", "nl")
    assert "this one has only en" in row.reason


def test_czech_has_a_code_of_its_own(data):
    (entry,) = read_dataset(data({"en": EN, "cz": EN}), language="cs").entries
    assert entry.fact.id == "cs/0"


def test_zsre_and_bzsre(data):
    assert read_dataset(data(EN)).facts == (ENGLISH,)
    (dutch,) = read_dataset(data(EN), language="nl").facts
    assert dutch.id == "nl/0"
    (chinese,) = read_dataset(data(BZSRE | {"pred": "", "answers": []})).facts
    assert (chinese.language, chinese.prompt, chinese.subject) == ("zh", "{}的首都是哪里？", "秘鲁")


def test_counterfact_in_rome_form(data):
    (entry,) = read_dataset(data(ROME)).entries
    assert (entry.fact.prompt, entry.fact.subject) == ("{} plays the", "Ada King")
    assert (entry.fact.id, entry.fact.target, entry.fact.old) == ("en/7", "flute", "harp")
    assert entry.fact.paraphrase_texts == ("It rained. Ada King plays the",)
    assert entry.fact.neighbourhood == (
        Probe("Tom Hill plays the", "harp"),
        Probe("Jo Dale plays the", "harp"),
    )
    assert entry.found == "marked"


def test_counterfact_in_easyedit_form(data):
    (entry,) = read_dataset(data(EASYEDIT)).entries
    assert (entry.fact.prompt, entry.fact.target, entry.fact.old) == (
        "{} plays the",
        "flute",
        "harp",
    )
    assert entry.fact.neighbourhood == (Probe("Tom Hill plays the", "drum"),)


def test_mlake(data):
    file = read_dataset(
        data(
            MLAKE,
            MLAKE | {"question": "Wo wohnt Ada?"},
            MLAKE | {"question": "Wo wohnt Ada?", "subject": "Ada"},
            name="de_qa.json",
        )
    )
    assert [(entry.fact.subject, entry.found) for entry in file.entries] == [
        ("Ada King", "shared name"),
        ("Ada", "as given"),
    ]
    assert [entry.fact.id for entry in file.entries] == ["de/0", "de/2"]
    assert [row.field for row in file.rejected] == ["[1].subject"]
    assert "shares no single name" in file.rejected[0].reason


def test_mlake_in_chinese_is_rejected_with_the_reason(data):
    record = MLAKE | {"question": "亚当·金住在哪里？"}
    file = examine_dataset(data(record), language="zh")
    assert file.entries == ()
    assert "without spaces" in file.rejected[0].reason
    with pytest.raises(FactError, match="got no row that can be used, of 1"):
        read_dataset(data(record), language="zh")


def test_mlake_needs_a_language(data):
    with pytest.raises(ConfigError, match="does not say the language of its texts"):
        read_dataset(data(MLAKE))


@pytest.mark.parametrize(
    ("record", "field", "reason"),
    [
        (EN | {"alt": " "}, "[1].alt", "empty"),
        (EN | {"alt": None}, "[1].alt", "expected text, got nothing"),
        (EN | {"alt": 3}, "[1].alt", "a value of type int"),
        (EN | {"rephrase": ""}, "[1].rephrase", "empty"),
        (EN | {"loc_ans": None}, "[1].loc_ans", "got nothing"),
        (EN | {"portability": "x"}, "[1].portability", "expected an object"),
        (EN | {"src": "Does {} or Ada King live?"}, "[1].prompt", "exactly one {}, where"),
        (EN | {"rephrase": "Does {} live?"}, "[1].paraphrases", "without {}"),
        (EN | {"case_id": [3]}, "[1].case_id", "expected text"),
        ("row", "[1]", "expected an object, got a value of type str"),
    ],
)
def test_a_bad_record_is_rejected_with_its_place_and_reason(data, record, field, reason):
    path = data(EN, record, EN)
    file = read_dataset(path, format="zsre")
    assert [fact.id for fact in file.facts] == ["en/0", "en/2"]
    (row,) = file.rejected
    assert (row.file, row.field, row.language) == (str(path), field, "en")
    assert reason in row.reason
    assert str(row).startswith(f"{path}:{row.line}: {field}: ")
    assert path.read_text(encoding="utf-8").splitlines()[row.line - 1].lstrip()[:1] in '{"'


@pytest.mark.parametrize(
    ("record", "field", "reason"),
    [
        (ROME | {"requested_rewrite": []}, "[0].requested_rewrite", "expected an object"),
        (
            ROME | {"requested_rewrite": ROME["requested_rewrite"] | {"prompt": "It is"}},
            "[0].requested_rewrite.prompt",
            "got 0",
        ),
        (ROME | {"paraphrase_prompts": "a"}, "[0].paraphrase_prompts", "expected a list of texts"),
        (ROME | {"neighborhood_prompts": ["a", 1]}, "[0].neighborhood_prompts[1]", "type int"),
    ],
)
def test_a_bad_record_of_rome(data, record, field, reason):
    (row,) = examine_dataset(data(record), format="counterfact").rejected
    assert (row.field, reason in row.reason) == (field, True)


def test_bad_sides_of_pairs(data):
    records = [MZSRE, MZSRE | {"du": 5}, 7, MZSRE | {"xq": NL}, MZSRE | {"du": None}]
    rejected = examine_dataset(data(*records), format="mzsre", options=ANYHOW).rejected
    found = {row.field: row.reason for row in rejected}
    assert "expected an object, got a value of type int" in found["[1].du"]
    assert "expected an object" in found["[2]"]
    assert "'xq'" in found["[3].xq"]
    assert "missing" in found["[4].du"]


def test_one_language_of_a_pair(data):
    file = read_dataset(data(MZSRE), language="nl", options=ANYHOW)
    assert [fact.language for fact in file.facts] == ["nl"]
    with pytest.raises(FactError, match=r"expected texts in fr .* got only en, du"):
        read_dataset(data(MZSRE), language="fr")
    with pytest.raises(FactError, match="expected a known language code"):
        read_dataset(data(MZSRE), language="xq")


def test_our_own_fields(data, tmp_path):
    english = OWN | {"language": "en", "id": "mine"}
    array = read_dataset(data(OWN, english, OWN | {"language": "xq"}, OWN | {"targets": "x"}))
    assert [fact.id for fact in array.facts] == ["nl/0", "mine"]
    assert [row.field for row in array.rejected] == ["[2].language", "[3].targets"]
    lines = tmp_path / "facts.jsonl"
    lines.write_text(f"{json.dumps(OWN)}\n{json.dumps(english)}\nbad\n")
    file = read_dataset(lines)
    assert [fact.id for fact in file.facts] == ["facts.jsonl:1", "mine"]
    assert [(row.line, row.language) for row in file.rejected] == [(3, None)]
    assert [fact.id for fact in read_dataset(lines, language="en").facts] == ["mine"]
    with pytest.raises(FactError, match="expected facts in fr"):
        read_dataset(lines, language="fr")
    table = tmp_path / "facts.CSV"
    table.write_text("language,prompt,subject,target\nnl,{} woont in,Ada,Oslo\n")
    assert read_dataset(table).facts[0].target == "Oslo"


def test_json_lines_of_a_data_set(tmp_path):
    path = tmp_path / "zsre.jsonl"
    path.write_text(f"{json.dumps(EN)}\nbad\n{json.dumps(EN)}\n", encoding="utf-8")
    file = read_dataset(path)
    assert [fact.id for fact in file.facts] == ["en/0", "en/2"]
    assert [(row.line, row.field) for row in file.rejected] == [(2, "[1]")]


@pytest.mark.parametrize(
    ("records", "found"),
    [
        (({"question": "a", "answer": "b"},), "an object with the fields question, answer"),
        (({"en": {"q": 1}, "de": {"q": 1}},), "an object with the fields en (q), de (q)"),
        ((1, 2), "of type int"),
        ((), "missing"),
    ],
)
def test_an_unknown_shape_lists_the_known_ones(data, records, found):
    with pytest.raises(FactError) as caught:
        read_dataset(data(*records))
    assert f"its first record is {found}" in str(caught.value)
    for known in FORMATS:
        assert f"  {known.name}: {known.summary}; fields " in str(caught.value)


def test_most_records_decide(data):
    assert read_dataset(data(EN, {"odd": 1}, EN)).format == "zsre"
    with pytest.raises(FactError, match="cannot tell the format"):
        read_dataset(data(EN, {"odd": 1}))


def test_what_the_caller_gets_wrong(data):
    with pytest.raises(ConfigError, match="did you mean 'zsre'"):
        read_dataset(data(EN), format="zsr")
    with pytest.raises(ConfigError, match="a format or a mapping of columns, got both"):
        read_dataset(data(EN), format="zsre", columns={"prompt": "src"})
    with pytest.raises(ConfigError, match="missing subject: expected one of"):
        read_dataset(data(EN), options=ReadOptions(missing_subject="skip"))
    with pytest.raises(FactError, match="cannot read"):
        read_dataset("absent.json")
