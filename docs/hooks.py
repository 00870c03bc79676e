"""Pages that mkdocs makes: README as the first page, and every option of conf/ with its comment."""

from pathlib import Path

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


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Document what `import camreid` offers where it is defined, since its names are lazy."""
    names = "\n".join(
        f"::: {home}.{name}\n    options: {{heading_level: 3, show_root_full_path: false}}\n"
        for name, home in camreid._HOMES.items()
    )
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
