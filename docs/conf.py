"""Settings of the documentation, which `make docs` builds.

The source folder is the whole checkout: READMEs, CONTRIBUTING and CHANGELOG are pages as they
are, and links between files are the same on the site and in the checkout.
"""

from mmdk import __version__

project = 'mmdk'
author = copyright = 'mmdk contributors'
version = release = __version__

extensions = [
    'myst_nb',  # Markdown, too
    'sphinx.ext.autodoc',
    'sphinx.ext.mathjax',
    'sphinx.ext.napoleon',
    'sphinx.ext.viewcode',
]
root_doc = 'docs/index'
include_patterns = [
    *('README.md', 'CONTRIBUTING.md', 'CHANGELOG.md'),
    *('docs/**.md', 'docs/notebooks/*.ipynb', 'configs/*/README.md', 'benchmarks/README.md'),
]
# Not even looked into.
exclude_patterns = ['.*', 'build', 'data', 'work_dirs']

myst_enable_extensions = ['dollarmath']
myst_heading_anchors = 3
# Notebooks are shown as they are committed; a test executes them.
nb_execution_mode = 'off'

# What stands in single backticks is code; quotes are left as they are.
default_role = 'literal'
smartquotes_action = 'De'
# nn.Module has documentation for those who write a forward, not for those who call it.
autodoc_inherit_docstrings = False
autodoc_member_order = 'bysource'
autodoc_typehints = 'description'
autodoc_typehints_description_target = 'documented'
# Every name that is referred to has to be known, but for others', whose inventories are not read.
nitpicky = True
nitpick_ignore_regex = [
    ('py:.*', r'(collections|matplotlib|mmdet|mmengine|numpy|os|pathlib|torch)\..*')
]

html_theme = 'alabaster'
# The recipes' tables are wide.
html_theme_options = {'page_width': '1280px', 'body_max_width': '100%'}
html_extra_path = ['start_page']
html_copy_source = False
