"""Wikipedia as the `datasets` package streams it, from a local data set of the same features."""

from __future__ import annotations

import pytest
from tiny import tiny_editable

from langedit.editing import collect_moments
from langedit.editing.corpus import read_corpus
from langedit.errors import ConfigError

datasets = pytest.importorskip("datasets")

ARTICLES = {
    "de": ["Wien ist eine Stadt.", "", "Bern liegt an der Aare."],
    "fr": ["Rome est une ville.\n\nElle est en Italie."],
    "zh": ["北京是中国的首都。", "巴黎是法国的首都。"],
}


@pytest.fixture
def wikipedia(tmp_path):
    """One dated configuration for each language; columns id, url, title and text."""
    configs = []
    for language, texts in ARTICLES.items():
        rows = {
            "id": [str(i) for i in range(len(texts))],
            "url": ["https://example.org"] * len(texts),
            "title": ["-"] * len(texts),
            "text": texts,
        }
        path = tmp_path / "wikipedia" / f"20231101.{language}" / "train-00000-of-00001.parquet"
        path.parent.mkdir(parents=True)
        datasets.Dataset.from_dict(rows).to_parquet(path)
        configs.append(
            f"- config_name: 20231101.{language}\n  data_files:\n  - split: train\n"
            f"    path: 20231101.{language}/train-*\n"
        )
    card = f"---\nconfigs:\n{''.join(configs)}---\n"
    (tmp_path / "wikipedia" / "README.md").write_text(card, encoding="utf-8")
    return tmp_path / "wikipedia"


def sources(folder, *languages):
    return [f"{code}=hf:{folder}:20231101.{code}" for code in languages]


def test_languages_take_turns_over_streams(wikipedia):
    assert list(read_corpus(sources(wikipedia, "de", "fr", "zh"))) == [
        ("de", ARTICLES["de"][0]),
        ("fr", ARTICLES["fr"][0]),
        ("zh", ARTICLES["zh"][0]),
        ("de", ARTICLES["de"][2]),
        ("zh", ARTICLES["zh"][1]),
    ]


def test_moments_of_a_stream_are_those_of_the_same_texts(wikipedia):
    model = tiny_editable()
    streamed = collect_moments(model, read_corpus(sources(wikipedia, "de", "zh")), (1,))
    given = [("de", ARTICLES["de"][0]), ("zh", ARTICLES["zh"][0])]
    given += [("de", ARTICLES["de"][2]), ("zh", ARTICLES["zh"][1])]
    listed = collect_moments(model, given, (1,))
    assert streamed.corpus == listed.corpus
    assert streamed.layers[1].counts == listed.layers[1].counts


def test_a_configuration_that_is_not_there_is_an_error(wikipedia):
    with pytest.raises(ConfigError, match=r"cannot be streamed .*20231101.xx"):
        list(read_corpus([f"de=hf:{wikipedia}:20231101.xx"]))
