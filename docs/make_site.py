"""Makes the site of the documentation, in site/, from the pages that GitHub shows.

    python docs/make_site.py

The pages lie flat in build/docs, README.md as index.md. Links between them are those of the
repository, moved; links to other files lead to the repository at `repo_url` of zensical.toml, and
are plain text where it has no address.
"""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
# Pages outside of docs, and what they are called on the site.
OUTSIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
LINK = re.compile(r"\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\((?!https?:|#)([^()#\s]+)(#[^()\s]*)?\)")


def pages() -> dict[Path, str]:
    """Files that become pages, with their names on the site."""
    own = {page: page.name for page in sorted(DOCS.glob("*.md"))}
    return {ROOT / path: name for path, name in OUTSIDE.items()} | own


def moved(page: Path, repository: str | None) -> str:
    """The text of a page with the links that it needs on the site.

    Args:
        page: A Markdown file of the repository.
        repository: Its address, None where links to source files are to be plain text.
    """

    def target(match: re.Match[str]) -> str:
        text, path, anchor = match[1], (page.parent / match[2]).resolve(), match[3] or ""
        if not path.exists():
            return match[0]  # code that looks like a link
        if path in names:
            return f"[{text}]({names[path]}{anchor})"
        if path.is_relative_to(DOCS) and path.suffix != ".py":
            return f"[{text}]({path.relative_to(DOCS).as_posix()})"
        if repository is None:
            return text
        return f"[{text}]({repository}/blob/HEAD/{path.relative_to(ROOT).as_posix()}{anchor})"

    names = pages()
    return LINK.sub(target, page.read_text())


def main() -> None:
    """Lays out the pages and has Zensical build them; a broken link is an error."""
    settings = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]
    laid = ROOT / settings["docs_dir"]
    shutil.rmtree(laid, ignore_errors=True)
    shutil.rmtree(ROOT / settings["site_dir"], ignore_errors=True)
    laid.mkdir(parents=True)
    for folder in ("assets", "figures"):
        shutil.copytree(DOCS / folder, laid / folder)
    for page, name in pages().items():
        (laid / name).write_text(moved(page, settings.get("repo_url")))
    build = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    sys.exit(subprocess.run(build, cwd=ROOT, check=False).returncode)


if __name__ == "__main__":
    main()
