"""What makes the project found and cited: addresses, citation, workflows, issue forms, the page on a package index."""

import importlib.util
import re
import subprocess
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

import fd_flower

ROOT = Path(__file__).parents[1]
GITHUB = ROOT / ".github"

pytestmark = pytest.mark.skipif(not GITHUB.is_dir(), reason="looks at the checkout")

if GITHUB.is_dir():
    PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    URLS = PROJECT["project"]["urls"]
    OWNER = URLS["Repository"].split("/")[-2]
    WORKFLOWS = {path.stem: yaml.safe_load(path.read_text()) for path in sorted(GITHUB.glob("workflows/*.yml"))}
    FORMS = sorted(path for path in GITHUB.glob("ISSUE_TEMPLATE/*.yml") if path.stem != "config")
else:
    PROJECT, URLS, OWNER, WORKFLOWS, FORMS = {}, {}, "", {}, []

ADDRESSES = (
    r"github\.com/([\w-]+)/fd-flower\b",
    r"colab\.research\.google\.com/github/([\w-]+)/fd-flower\b",
    r"\b([\w-]+)\.github\.io/fd-flower\b",
    r"(?<![\w/])@([\w-]+)/(?:fd-flower|fedmd|feddf)\b",
)
"""Where an owner stands: repository, notebooks on Colab, site, Flower Hub."""


def tracked() -> list[Path]:
    """Return the text files that git knows."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if names.returncode:
        pytest.skip("no repository")
    files = [ROOT / name for name in names.stdout.split("\0") if name]
    return [path for path in files if path.is_file() and path.suffix not in (".png", ".svg")]


# --- addresses


def test_every_address_has_the_owner_that_pyproject_names():
    found = 0
    for path in tracked():
        text = path.read_text(encoding="utf-8")
        for pattern in ADDRESSES:
            for owner in re.findall(pattern, text):
                found += 1
                assert owner == OWNER, f"{path.relative_to(ROOT)} has {owner}; [project.urls] has {OWNER}"
    assert found > 5


def test_every_address_in_pyproject_is_of_one_owner():
    assert URLS["Homepage"] == URLS["Repository"] == f"https://github.com/{OWNER}/fd-flower"
    assert URLS["Documentation"] == f"https://{OWNER}.github.io/fd-flower/"
    assert all(URLS[name].startswith(f"{URLS['Repository']}/") for name in ("Issues", "Changelog"))


def test_the_apps_on_flower_hub_are_published_by_that_owner():
    apps = [PROJECT, *(tomllib.loads(path.read_text()) for path in ROOT.glob("hub/*/pyproject.toml"))]
    assert {app["tool"]["flwr"]["app"]["publisher"] for app in apps} == {OWNER}


# --- citation


def test_the_citation_is_of_this_version_and_its_addresses():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert str(citation["version"]) == PROJECT["project"]["version"] == fd_flower.__version__
    assert (citation["repository-code"], citation["url"]) == (URLS["Repository"], URLS["Documentation"])
    assert [author["name"] for author in citation["authors"]] == [one["name"] for one in PROJECT["project"]["authors"]]


# --- workflows


def steps(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_actions_are_pinned_to_a_whole_version(name: str):
    used = [step["uses"] for step in steps(WORKFLOWS[name]) if "uses" in step]
    assert used
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@v\d+\.\d+\.\d+", action) for action in used), used


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_may_read_and_its_publishing_job_may_identify_itself(name: str):
    workflow = WORKFLOWS[name]
    granted = {"workflow": workflow["permissions"]}
    granted |= {job: spec["permissions"] for job, spec in workflow["jobs"].items() if "permissions" in spec}
    for job, permissions in granted.items():
        allowed = {"id-token": "write"} if job == "publish" else {"contents": "read"}
        assert permissions in (allowed, {}), f"{name}, {job}: {permissions}"


def test_ci_runs_every_check_on_every_python_that_is_named():
    assert ".ci/run" in [step.get("run") for step in steps(WORKFLOWS["ci"])]
    named = [line.rpartition(" ")[2] for line in PROJECT["project"]["classifiers"] if re.search(r":: 3\.\d+$", line)]
    assert WORKFLOWS["ci"]["jobs"]["checks"]["strategy"]["matrix"]["python"] == named


def test_the_site_is_built_strictly():
    assert any("mkdocs build --strict" in step.get("run", "") for step in steps(WORKFLOWS["docs"]))


# --- issue forms


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.stem)
def test_an_issue_form_is_one_that_github_takes(form: Path):
    content = yaml.safe_load(form.read_text(encoding="utf-8"))
    assert {"name", "description", "body"} <= set(content)
    ids = [field["id"] for field in content["body"]]
    assert len(ids) == len(set(ids))
    for field in content["body"]:
        assert field["type"] in ("checkboxes", "dropdown", "input", "textarea")
        assert field["attributes"]["label"]
        assert ("options" in field["attributes"]) == (field["type"] in ("checkboxes", "dropdown"))


# --- the page on a package index


@pytest.fixture(scope="module")
def built() -> ModuleType:
    """Return the module that makes the description."""
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_description_on_a_package_index_has_no_relative_link(built: ModuleType):
    text = built.absolute((ROOT / "README.md").read_text(encoding="utf-8"), URLS["Repository"])
    assert not re.findall(r"\]\((?!https?:|mailto:|#)[^)\s]+\)", text)


def test_links_lead_to_pages_and_images_to_files(built: ModuleType):
    text = "[![CI](a.svg)](docs/a.md#b) ![c](d.png) [e](https://f.g) [h](#i) [`j`](k.md)"
    assert built.absolute(text, "https://r") == (
        "[![CI](https://r/raw/main/a.svg)](https://r/blob/main/docs/a.md#b) ![c](https://r/raw/main/d.png) "
        "[e](https://f.g) [h](#i) [`j`](https://r/blob/main/k.md)"
    )
