"""What the pages say about files and settings is so."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import typer

from langedit.cli.main import app
from langedit.cli.settings import read_settings, shipped_names
from langedit.editing import EditConfig
from langedit.facts import read_facts
from langedit.models.placement import Placement

DOCS = Path(__file__).parents[1] / "docs"


def blocks(page: str, language: str) -> list[str]:
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize(("language", "suffix"), [("json", ".jsonl"), ("csv", ".csv")])
def test_examples_of_facts_are_read(tmp_path, language, suffix):
    (block,) = blocks("facts.md", language)
    path = tmp_path / f"facts{suffix}"
    path.write_text(block, encoding="utf-8")
    (fact,) = read_facts(path, strict=True).facts
    assert (fact.subject, fact.target) == ("Peru", "Wien")
    assert fact.paraphrase_texts == ("Peru hat als Hauptstadt",)
    assert fact.neighbourhood[0].answer == "Santiago"


def test_the_example_of_settings_is_read(tmp_path):
    first, chat = blocks("config.md", "toml")
    (tmp_path / "edit.toml").write_text(first, encoding="utf-8")
    config = EditConfig.from_toml(tmp_path / "edit.toml")
    assert config.layers == (4, 5, 6, 7, 8)
    assert config.seed_words["it"][0] == "Il"
    (tmp_path / "chat.toml").write_text(chat, encoding="utf-8")
    assert EditConfig.from_toml(tmp_path / "chat.toml").chat_settings is not None


def test_every_setting_is_listed_with_its_default():
    rows = re.findall(
        r"^\| `(\w+)` \| ([^|]+) \|", (DOCS / "config.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    listed = {name: default.strip(" `") for name, default in rows}
    config = EditConfig(layers=(0,), null_share=0.5)
    assert list(listed) == list(EditConfig.model_fields)
    for name, default in listed.items():
        if not default.startswith("none"):
            assert tomllib.loads(f"value = {default}")["value"] == getattr(config, name), name


@pytest.mark.parametrize("name", shipped_names())
def test_shipped_settings_are_valid(name):
    config = read_settings(name, None, None, None)
    assert config.method == "langedit"
    assert config.loss_layer is not None
    assert config.loss_layer > config.layers[-1]


def test_shipped_settings_are_named_in_the_readme():
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    assert shipped_names()
    assert [name for name in shipped_names() if f"`{name}`" not in readme] == []


def test_device_maps_are_read(tmp_path):
    found = []
    for block in blocks("distributed.md", "json"):
        path = tmp_path / "map.json"
        path.write_text(block, encoding="utf-8")
        found.append(Placement.of(str(path)))
    assert [placement.max_memory for placement in found] == [None, {0: "18GiB", "cpu": "60GiB"}]
    assert found[0].arguments()["device_map"]["lm_head"] == "disk"


def test_commands_for_several_processes_have_no_unknown_option():
    found = [line for block in blocks("distributed.md", "sh") for line in block.splitlines()]
    lines = [line for line in found if not line.startswith("export ")]
    commands = [re.sub(r"^(.* )?langedit ", "", line).rstrip("'").split() for line in lines]
    assert len(commands) >= 6
    group = typer.main.get_command(app)
    for name, *arguments in commands:
        command = group.get_command(group.make_context("langedit", [name]), name)
        command = getattr(command, "commands", {}).get("collect", command)  # stats is a group
        named = command.make_context(name, arguments).params
        assert named["model"] in ("./my-model", "bundled") or named["folder"] == Path("./atlas")
