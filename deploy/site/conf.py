# Settings of Sphinx for the site of these documents. deploy/site/build copies the Markdown files into one
# directory with their paths, so that the links between them stay.
import re

project = "Assay"
copyright = "the authors of Assay"
extensions = ["myst_parser"]
root_doc = "README"
exclude_patterns = ["deploy", "cmd", "LICENSE"]

# Anchors like those of GitHub, which the links in the documents use.
myst_heading_anchors = 4

# Texts are commands and flags: no other quotes, no dashes, no colours that guess a language.
smartquotes = False
highlight_language = "none"

# alabaster comes with Sphinx, and loads nothing from elsewhere.
html_theme = "alabaster"
html_theme_options = {
    "description": "A Go module proxy that serves only what it has verified",
    "fixed_sidebar": True,
    "page_width": "1100px",
    "sidebar_width": "260px",
    "font_family": "sans-serif",
    "head_font_family": "sans-serif",
}
html_sidebars = {"**": ["about.html", "searchbox.html", "navigation.html"]}
html_title = "Assay"
html_copy_source = False
html_show_sourcelink = False
html_last_updated_fmt = None

# Groups of the navigation; the README has them with a sentence for each page. What no other group has is
# at the end of its directory, so a new page is never missing.
groups = {
    "Learn": ["docs/tutorial", "docs/production"],
    "Do": [
        "docs/install", "docs/upgrade", "docs/clients", "docs/windows-macos", "docs/private", "docs/access", "docs/operations",
        "docs/backup", "docs/proxies", "docs/replicas", "docs/kubernetes", "docs/monitoring", "docs/runbook", "docs/troubleshooting", "docs/outage",
    ],
    "Look up": ["docs/configuration", "docs/errors", "docs/metrics", "docs/benchmarks", "docs/deployment", "docs/glossary", "NEWS"],
    "Understand": ["docs/verification", "docs/sizing", "docs/faq"],
    "Develop": ["CONTRIBUTING", "SECURITY", "docs/design/README"],
}


# Comments, in which the tests of the documents find what to do with a block of code.
comment = re.compile(r"(?ms)^ {0,3}<!--.*?-->\n")


def prepare(app, docname, source):
    """Removes comments, and appends the tables of contents to the first page: one for each group, and the rest."""
    source[0] = comment.sub("", source[0])
    if docname != root_doc:
        return
    grouped = {page for pages in groups.values() for page in pages}
    rest = sorted(page for page in app.env.found_docs if page not in grouped and page != root_doc)
    for caption, pages in [*groups.items(), ("Design", rest)]:
        source[0] += "\n\n```{toctree}\n:hidden:\n:caption: %s\n\n%s\n```\n" % (caption, "\n".join(pages))


def setup(app):
    app.connect("source-read", prepare)
    return {"parallel_read_safe": False}
