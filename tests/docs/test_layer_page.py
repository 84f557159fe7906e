"""docs/layer.md: the defaults are those of the classes."""

import inspect
import re

import pytest

from attnorm import AttentiveBatchNorm2d, AttentiveGroupNorm
from attnorm.layers.attention import ChannelAttention
from tests.docs.blocks import ROOT

PAGE = (ROOT / "docs" / "layer.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \| .* \|$", PAGE.partition("## Defaults")[2], re.MULTILINE)


@pytest.mark.parametrize(("column", "kind"), [(1, AttentiveBatchNorm2d), (2, AttentiveGroupNorm)])
def test_defaults(column: int, kind: type):
    rarer = inspect.signature(ChannelAttention).parameters
    parameters = inspect.signature(kind).parameters
    assert len(ROWS) == 10
    for row in ROWS:
        name, shown = row[0], row[column]
        if shown == "–":
            assert name not in parameters
        else:
            default = (parameters if name in parameters else rarer)[name].default
            assert shown == str(default).replace("1e-05", "1e-5").replace("0.001", "1e-3") or shown == f'"{default}"', (
                name
            )
