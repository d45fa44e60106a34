"""The documents tell the truth: what they name exists, and what exists is named."""

from __future__ import annotations

import argparse
import ast
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from convonet_ros import cli
from convonet_ros.config import Config, knobs

REPOSITORY = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md")])
README = (REPOSITORY / "README.md").read_text()
NAMES = [str(path.relative_to(REPOSITORY)) for path in DOCUMENTS]


def every_document() -> str:
    return "\n".join(path.read_text() for path in DOCUMENTS)


def code_of(text: str) -> list[str]:
    """All code: the lines of fenced blocks, continued ones joined, and inline code."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
    return lines + inline


def rows_of(heading: str) -> list[list[str]]:
    """The cells of all table rows below a heading of the README, without the tables' heads."""
    match = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", README, re.M | re.S)
    assert match, f"README has no heading '{heading}'"
    tables = re.findall(r"^\|.*\n\|[-|]+\|\n((?:\|.*\n)+)", match.group(1), re.MULTILINE)
    lines = "".join(tables).splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def names_in(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def parameter_tables() -> str:
    """The README's tables of parameters, one per section, as config.py gives them."""
    sections: dict[str, list[str]] = {}
    for name, (value, about) in knobs(Config()).items():
        default = str(value).lower() if isinstance(value, bool) else str(value)
        limits = f"{about['low']} to {about['high']}" if about["low"] is not None else ""
        limits = ", ".join(about["choices"]) or limits
        cells = (f"`{name}`", f"`{default}`" if default else "", about["unit"], limits)
        row = "| " + " | ".join((*cells, about["sentence"])) + " |"
        sections.setdefault(name.split(".")[0], []).append(re.sub(r"\|  (?=\|)", "| ", row))
    head = "| parameter | default | unit | range | meaning |\n|---|---|---|---|---|\n"
    return "\n\n".join(head + "\n".join(rows) for rows in sections.values())


# ---- links -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_link_leads_to_a_file_of_the_repository(name: str) -> None:
    document = REPOSITORY / name
    links = re.findall(r"\]\(([^)\s]+)\)", document.read_text())
    broken = []
    for link in links:
        path, _, anchor = link.partition("#")
        if re.match(r"\w+:", link):
            continue
        target = (document.parent / path).resolve() if path else document
        there = target.is_file() and _tracked(target)
        if not there or (anchor and anchor not in _anchors(target.read_text())):
            broken.append(link)
    assert not broken, f"{name} links to what is not there: {broken}"


def _tracked(path: Path) -> bool:
    """Whether git knows a file; where there is no git, whether it is there."""
    if not (REPOSITORY / ".git").exists() or shutil.which("git") is None:
        return True
    command = ["git", "ls-files", "--error-unmatch", str(path)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=False).returncode == 0


def _anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


# ---- commands ----------------------------------------------------------------------------------


def commands() -> dict[str, argparse.ArgumentParser]:
    actions = cli._parser()._actions
    return next(a.choices for a in actions if isinstance(a, argparse._SubParsersAction))


def test_every_command_line_is_one_that_convonet_takes() -> None:
    known = set(commands())
    lines = [code for code in code_of(every_document()) if code.startswith("convonet ")]
    assert lines
    for line in lines:
        words = shlex.split(line, comments=True)
        assert words[1].split("|")[0] in known, f"no such command: {line}"
        if len(words) > 2:
            cli._parser().parse_args(words[1:])  # exits where it does not understand


def test_readme_lists_every_command() -> None:
    listed = {names_in(row[0])[0] for row in rows_of("Offline")}
    assert listed == {f"convonet {name}" for name in commands()}


def test_make_targets() -> None:
    phony = re.search(r"^\.PHONY: (.*)$", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    assert phony
    named = set(re.findall(r"\bmake ([a-z]+)", "\n".join(code_of(every_document()))))
    assert named == set(phony.group(1).split())


def test_launch_arguments() -> None:
    tree = ast.parse((REPOSITORY / "launch" / "reconstruct.launch.py").read_text())
    table = next(
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "ARGUMENTS"
    )
    assert isinstance(table, ast.Dict)
    arguments = {ast.literal_eval(key) for key in table.keys if key}
    assert {names_in(row[0])[0] for row in rows_of("Run")} == arguments
    text = "\n".join(code_of(every_document()))
    for line in re.findall(r"reconstruct\.launch\.py(.*)", text):
        assert set(re.findall(r"(\w+):=", line)) <= arguments


# ---- interfaces --------------------------------------------------------------------------------


def test_every_parameter_stands_in_the_readme_as_in_config() -> None:
    tables = parameter_tables()
    assert tables in README, f"write these tables into README.md:\n{tables}"
    sections = "|".join({name.split(".")[0] for name in knobs(Config())})
    dotted = re.findall(rf"`((?:{sections})\.[a-z_0-9]+)`", every_document())
    unknown = {name for name in dotted if not name.endswith(".py")} - set(knobs(Config()))
    assert not unknown, f"no such parameters: {unknown}"


def test_topics_and_services_are_those_of_the_node() -> None:
    rclpy = pytest.importorskip("rclpy")
    from driver import tiny_network
    from rclpy.qos import DurabilityPolicy, ReliabilityPolicy

    from convonet_ros.ros.node import ReconstructNode

    def qos(profile: Any) -> str:
        reliable = profile.reliability == ReliabilityPolicy.RELIABLE
        latched = profile.durability == DurabilityPolicy.TRANSIENT_LOCAL
        words = ("reliable" if reliable else "best effort", "volatile", str(profile.depth))
        return ", ".join((words[0], "transient local" if latched else words[1], words[2]))

    def kind(message: Any) -> str:
        return f"{message.__module__.split('.')[0]}/{message.__name__}"

    rclpy.init()
    try:
        node = ReconstructNode(tiny_network())
        sent = {(p.topic_name, kind(p.msg_type), qos(p.qos_profile)) for p in node.publishers}
        heard = {(s.topic_name, kind(s.msg_type), qos(s.qos_profile)) for s in node.subscriptions}
        served = {(s.service_name, kind(s.srv_type)) for s in node.services}
        node.close()
    finally:
        rclpy.shutdown()

    def written(heading: str, columns: int) -> set[tuple[str, ...]]:
        rows = [[names_in(row[0])[0], names_in(row[1])[0], row[2]] for row in rows_of(heading)]
        return {(_resolved(row[0]), *row[1:columns]) for row in rows}

    own = "/convonet/"
    assert written("Topics out", 3) == {t for t in sent if t[0].startswith(own)}
    assert written("Topics in", 3) == {
        t for t in heard if t[0] not in ("/tf", "/tf_static", "/parameter_events", "/clock")
    }
    of_every_node = ("rcl_interfaces/", "type_description_interfaces/")
    assert written("Services", 2) == {s for s in served if not s[1].startswith(of_every_node)}


def _resolved(name: str) -> str:
    return f"/convonet/{name[2:]}" if name.startswith("~/") else f"/{name}"


def test_messages_and_executables_are_listed() -> None:
    interfaces = [*REPOSITORY.glob("msg/*.msg"), *REPOSITORY.glob("srv/*.srv")]
    listed = {names_in(row[0])[0] for row in rows_of("Messages")}
    assert listed == {path.stem for path in interfaces}
    made = re.findall(
        r"^install_node\((\w+) ros\.\w+\)$", (REPOSITORY / "CMakeLists.txt").read_text(), re.M
    )
    assert {names_in(row[0])[0] for row in rows_of("Executables")} == set(made)


def test_parameters_of_the_other_executables() -> None:
    sources = {name: (REPOSITORY / f"convonet_ros/ros/{name}.py").read_text() for name in OTHERS}
    shared = (REPOSITORY / "convonet_ros/ros/depth_source.py").read_text()
    for executable, _, parameters in rows_of("Executables"):
        name = names_in(executable)[0]
        if name not in OTHERS:
            continue
        text = sources[name] + (shared if "DepthSource" in sources[name] else "")
        declared = re.findall(r'\bparameter\(self, "(\w+)"', text)
        assert set(names_in(parameters)) == set(declared), name


OTHERS = ("camera_node", "replay_node", "record_node")


def test_reasons_of_dropped_scans() -> None:
    """The reasons in the README are those in the sources."""
    used: set[str] = set()
    for path in (REPOSITORY / "convonet_ros/ros").glob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and ast.unparse(call.func).endswith(("drop", "_drop")):
                used |= {a.value for a in call.args if isinstance(a, ast.Constant)}
    named = {reason for row in rows_of("When something is wrong") for reason in names_in(row[0])}
    reasons = {name for name in named if re.fullmatch(r"[a-z]+_[a-z_]+", name)}
    assert used <= reasons
    text = "".join(p.read_text() for p in (REPOSITORY / "convonet_ros/ros").glob("*.py"))
    assert all(f'"{reason}"' in text for reason in reasons)


# ---- architecture ------------------------------------------------------------------------------


def test_architecture_maps_every_file() -> None:
    text = (REPOSITORY / "docs" / "architecture.md").read_text()
    package = REPOSITORY / "convonet_ros"
    files = {p.name for p in package.rglob("*.py") if p.name != "__init__.py"}
    named = set(re.findall(r"\b(\w+\.py)\b", text))
    assert files <= named, f"docs/architecture.md lacks {sorted(files - named)}"
    others = {"__init__.py", "setup.py", "reconstruct.launch.py"}
    assert named - files <= others, f"no such files: {sorted(named - files - others)}"
