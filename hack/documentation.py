"""Hooks of mkdocs: brings into the site what lives outside docs/, and points links at it.

The benchmarks and their plots stay beside what makes them, and the examples are files to apply. The site shows the
former as a page and the latter as sections of one; links that lead from docs/ to either lead there.
"""

import re
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

PROJECT = Path(__file__).resolve().parents[1]
EXAMPLES = "examples.md"
MANIFEST = r"\]\(\.\./examples/([\w.-]+)\.yaml\)"
BESIDE = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "charts/omnipipeline/README.md": "chart.md",
}
MOVED = {
    "../benchmarks/README.md": "benchmarks/index.md",
    "../examples)": f"{EXAMPLES})",
    **{f"../{source}": page for source, page in BESIDE.items()},
}
HEAD = """# Examples

Each is a file in `examples/`. `omni up FILE` runs one on this machine, `kubectl apply -f FILE` in a cluster that has
the operator. Those of the built-in model run anywhere; the others need a GPU, and a download.
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page of the examples, the pages beside the code, and the benchmarks with their results."""
    files.append(File.generated(config, EXAMPLES, content=examples()))
    for source, page in BESIDE.items():
        text = (PROJECT / source).read_text().replace("](docs/", "](")
        files.append(File.generated(config, page, content=text))
    for path in sorted((PROJECT / "benchmarks").rglob("*")):
        if path.suffix in (".md", ".svg", ".json", ".py"):
            name = PurePosixPath(path.relative_to(PROJECT).as_posix())
            target = name.with_name("index.md") if name.name == "README.md" else name
            files.append(File.generated(config, str(target), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links at what is elsewhere in the site than in the repository."""
    if page.file.src_uri == "benchmarks/index.md":
        return markdown.replace("[results](results)", "results (below, each as `raw`)")
    markdown = re.sub(MANIFEST, lambda found: f"]({EXAMPLES}#{anchor(found[1])})", markdown)
    for old, new in MOVED.items():
        markdown = markdown.replace(f"]({old}", f"]({new}")
    return markdown


def examples() -> str:
    """A section for each manifest."""
    sections = [
        f'## {path.stem} {{#{anchor(path.stem)}}}\n\n```yaml title="examples/{path.name}"\n{path.read_text()}```\n'
        for path in sorted((PROJECT / "examples").glob("*.yaml"))
    ]
    return "\n".join([HEAD, *sections])


def anchor(stem: str) -> str:
    """How a section is linked to."""
    return stem.replace(".", "-")
