"""Pages that mkdocs makes: README as the first page, the options of conf/, tables of benchmarks."""

import json
from pathlib import Path
from runpy import run_path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import camreid

ROOT = Path(__file__).parents[1]
COPIES = {
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}
LINKS = {
    "](docs/": "](",
    "](CONTRIBUTING.md)": "](contributing.md)",
    "](CHANGELOG.md)": "](changelog.md)",
    "[CITATION.cff](CITATION.cff)": "`CITATION.cff`",
}


def configuration() -> str:
    """The YAML files of `conf/` with their comments."""
    conf = ROOT / "conf"
    parts = [
        "# Configuration\n\nType `KEY=VALUE` for an option and `GROUP=NAME` for a file. "
        "`+split=NAME` and `+experiment=NAME` take a plus.\n\n## Commands\n"
    ]
    parts += [_page(path, f"camreid-{path.stem}") for path in sorted(conf.glob("*.yaml"))]
    for group in sorted(path for path in conf.iterdir() if path.is_dir() and path.name != "hydra"):
        parts.append(f"## {group.name}\n")
        parts += [_page(path, f"{group.name}={path.stem}") for path in sorted(group.glob("*.yaml"))]
    return "\n".join(parts)


def _page(path: Path, title: str) -> str:
    return f"### {title}\n\n```yaml\n{path.read_text().rstrip()}\n```\n"


def performance() -> str:
    """The tables of all benchmarks with a JSON file in `docs/performance/`."""
    table = run_path(str(ROOT / "scripts" / "bench" / "measure.py"))["table"]
    parts = []
    for path in sorted((ROOT / "docs" / "performance").glob("*.json")):
        result = json.loads(path.read_text())
        parts.append(f"## {path.stem}\n\n`scripts/bench/{result['name']}.py`\n\n{table(result)}")
    return "\n".join(parts)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fill in the benchmarks, and what `import camreid` offers, where it is defined."""
    names = "\n".join(
        f"::: {home}.{name}\n    options: {{heading_level: 3, show_root_full_path: false}}\n"
        for name, home in camreid._HOMES.items()
    )
    markdown = markdown.replace("<!-- performance -->", performance())
    return markdown.replace("<!-- camreid -->", f"## camreid\n\n{names}")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    pages = {target: (ROOT / source).read_text() for target, source in COPIES.items()}
    for old, new in LINKS.items():
        pages["index.md"] = pages["index.md"].replace(old, new)
    pages["reference/configuration.md"] = configuration()
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files
