"""Makes links of the docstrings' cross-references, such as :func:`attnorm.layers.replace_norm`."""

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:func|class|meth|mod|attr):`~?([\w.]+)`")


class DocstringLinks(griffe.Extension):
    """Read by mkdocstrings; see mkdocs.yml."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Turn every role into a link, or into plain code where the API reference does not show its target."""
        if obj.docstring is not None:
            obj.docstring.value = ROLE.sub(lambda match: link(match[1], obj), obj.docstring.value)


def link(name: str, obj: griffe.Object) -> str:
    """An optional reference of mkdocs-autorefs, shown by its last name; one without dots is of the same module."""
    path = name if name.startswith("attnorm.") else f"{obj.module.path}.{name}"
    return f'<autoref identifier="{path}" optional><code>{name.rpartition(".")[2]}</code></autoref>'
