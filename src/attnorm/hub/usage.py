"""How a network is used, as code that runs: for its model card."""

from collections.abc import Iterator

from attnorm.hub.markdown import fenced
from attnorm.training.header import CheckpointMeta
from attnorm.training.timm_config import is_timms

_TIMM = """\
import timm
import torch
{imports}
import attnorm.models  # registers the network with timm

model = timm.create_model("{place}", pretrained=True).eval()
{rest}"""

_OWN = """\
import torch
{imports}
import attnorm

model = attnorm.load("{place}")
{rest}"""

_IMAGES = """\
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
"""
_CLASSIFY = """\
prepare = create_transform(**resolve_model_data_config(model), is_training=False)
image = Image.open("image.png").convert("{mode}")
with torch.inference_mode():
    probabilities = model(prepare(image)[None]).softmax(dim=1)[0]
best = int(probabilities.argmax())
print(model.pretrained_cfg["label_names"][best], float(probabilities[best]))"""

_BACKBONE = """\
with torch.inference_mode():
    output = model(torch.rand(1, {channels}, {size}, {size}))"""

_PICTURES = """\
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor
"""
_DETECT = """\
image = pil_to_tensor(Image.open("image.png").convert("{mode}"))
with torch.inference_mode():
    (found,) = model([image])
names = model.pretrained_cfg["label_names"]
for box, label, score in zip(found["boxes"], found["labels"], found["scores"]):
    print(names[label - 1], float(score), box.tolist())  # left, top, right, bottom in pixels; label 0 is no object"""

_COMMANDS = """\
pip install 'attnorm[train]'
attnorm predict --checkpoint {place} --input PICTURES --output OUTPUT"""


def usage(meta: CheckpointMeta, name: str | None) -> Iterator[str]:
    """Python and commands.

    Args:
        meta: Of the network.
        name: USER/NAME on the hub; None: the code is for the folder that the card lies in.
    """
    place = f"hf-hub:{name}" if name else "local-dir:."
    if name is None:
        yield "In this folder:"
    mode = {1: "L", 3: "RGB"}.get(meta.in_chans)
    if meta.detector is not None:
        imports, rest = _PICTURES, _DETECT.format(mode=mode or "RGB")
    elif mode is None or not len(meta.classes) == meta.num_classes > 0:
        imports, rest = "", _BACKBONE.format(channels=meta.in_chans, size=meta.image_size)
    else:
        imports, rest = _IMAGES, _CLASSIFY.format(mode=mode)
    yield fenced((_TIMM if is_timms(meta) else _OWN).format(imports=imports, place=place, rest=rest), "python")
    yield fenced(_COMMANDS.format(place=place), "bash")
