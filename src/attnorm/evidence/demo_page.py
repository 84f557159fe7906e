"""The demo page: one column of controls, and beside it a panel for each network."""

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import torch
from PIL import Image

from attnorm.data.image_files import FORMATS, read_image
from attnorm.detection.draw import draw_detections
from attnorm.errors import DataError, shown
from attnorm.evidence.demo_mixture_plot import mixture_picture
from attnorm.evidence.demo_network import LOWEST_SCORE, ROUNDS, Answer, DemoNetwork, time_per_image
from attnorm.evidence.plots import inline_svg
from attnorm.evidence.timing import Timing

LONGEST = 1600  # pixels of a picture that objects are looked for in, and that a visitor's session keeps
SCORE = 0.5  # objects of at most this score are hidden at first
KEPT_S = 3600  # how long the server keeps an uploaded file and a session's picture
Update = Any  # what gradio takes for the value of a component

STYLE = """
.gradio-container { width: 100%; max-width: 1180px !important; margin: auto !important }
.problem { padding: .7em 1em; border-left: 4px solid #D55E00; background: #D55E0018 }
.html-container { padding: 0 !important }
.mixture { overflow-x: auto !important }
.mixture svg { display: block; width: 100%; min-width: 600px; height: auto } /* so that a phone's user can read it */
.seen img { margin-top: 2.2em } /* below its label */
h1, h3 { overflow-wrap: anywhere }
footer { display: none !important }
"""


@dataclass(frozen=True)
class Found:
    """What a visitor's session keeps of a picture with objects, so that the slider need not detect anew."""

    image: Image.Image
    objects: list[list[dict[str, Any]]]  # of each network


class Page:
    """The page and what its controls do.

    Args:
        networks: one or two, of the same task.
        examples: paths of images to begin with.
        max_file_mb: what the page says of the size of files; the server refuses larger ones.
    """

    def __init__(self, networks: Sequence[DemoNetwork], examples: Sequence[Path], max_file_mb: int) -> None:
        self.networks, self.detects = networks, networks[0].detects
        self._paths = examples
        with gr.Blocks(title="attnorm demo", analytics_enabled=False, delete_cache=(KEPT_S, KEPT_S)) as self.blocks:
            gr.Markdown(f"# {' beside '.join(network.name for network in networks)}\n{_knowledge(networks)}")
            with gr.Row():
                with gr.Column(scale=2, min_width=260):
                    self._controls(max_file_mb)
                with gr.Column(scale=5, min_width=320):
                    self._results()
            self._connect()

    def _controls(self, max_file_mb: int) -> None:
        self.file = gr.File(label="Image", height=130)
        gr.Markdown(f"{', '.join(FORMATS)}; at most {max_file_mb} MB. It stays on the machine that serves this page.")
        self.examples = gr.Dataset(
            components=[gr.Image(render=False)],
            samples=[[str(path)] for path in self._paths],
            label="Or one of these, drawn for this page",
            type="index",
            layout="gallery",
            visible=bool(self._paths),
        )
        self.seen = gr.Image(
            label="What the networks see", visible=False, interactive=False, format="png", buttons=[], height=270,
            elem_classes="seen",
        )  # fmt: skip

    def _results(self) -> None:
        choose = ", or choose one of those that are drawn for this page" if self._paths else " to see what comes out"
        self.message = gr.HTML(f"<p>Drop an image{choose}.</p>")
        self.threshold = gr.Slider(
            LOWEST_SCORE, 0.95, SCORE, step=0.05, label="Show objects with a score above", visible=False
        )
        self.found = gr.State(time_to_live=KEPT_S)
        with gr.Column(visible=False) as self.results:
            with gr.Row():
                columns = [self._answer(network) for network in self.networks]
            self.mixtures = [gr.HTML(elem_classes="mixture") for network in self.networks if network.layers]
            gr.Markdown(_method(self.networks[0].device))
        self.answers, self.times = ([column[i] for column in columns] for i in (0, 1))

    def _answer(self, network: DemoNetwork) -> tuple[Any, Any]:
        """Classes, or the picture with objects; and the time."""
        with gr.Column(min_width=300):
            gr.Markdown(f"### {network.name}\n{network.facts()}")
            if self.detects:
                answer = gr.Image(
                    label="Objects", interactive=False, format="png", buttons=["fullscreen"], elem_classes="objects"
                )
            else:
                answer = gr.Label(label="Most likely classes", show_heading=False)
            return answer, gr.Markdown()

    def _connect(self) -> None:
        outputs = [self.file, self.message, self.results, self.seen, self.threshold, self.found]
        outputs += [*self.answers, *self.times, *self.mixtures]
        # One queue: `read_image` is not for several threads at once, and networks that run together have no time.
        together: Any = {"outputs": outputs, "show_progress": "minimal", "concurrency_id": "show"}
        self.file.upload(self.show, [self.file, self.threshold], api_name="show", **together)
        self.examples.click(self._show_example, [self.examples, self.threshold], api_visibility="private", **together)
        if self.detects:
            inputs = [self.found, self.threshold]
            # Not on release, which a keyboard has none of.
            self.threshold.change(
                self.redraw,
                inputs,
                self.answers,
                api_visibility="private",
                show_progress="hidden",
                trigger_mode="always_last",
            )

    def show(self, file: str, threshold: float) -> Iterator[list[Update]]:
        """What the networks make of a file: first the answers, then the times as well.

        Args:
            file: where the server has put it.
            threshold: of the scores of objects.

        Yields:
            A value for each output of the page; the place to drop files is empty again. Of a file that is no image, a
            sentence that says so.
        """
        name = shown(Path(file).name, 40)
        try:
            image = read_image(file)
        except DataError as error:
            problem = f"{name} cannot be shown: {str(error).removeprefix('not a readable image: ')}."
            nothing = [None] * (len(self.answers) + len(self.times) + len(self.mixtures))
            yield [None, _alert(problem), *[gr.update(visible=False)] * 3, None, *nothing]
            return
        if self.detects:
            image.thumbnail((LONGEST, LONGEST))
        answers = [network.answer(image) for network in self.networks]
        found = Found(image, [answer.objects for answer in answers]) if self.detects else None
        drawn = self.redraw(found, threshold) if found else [answer.classes for answer in answers]
        head = [
            None,
            gr.update(visible=False),
            gr.update(visible=True),
            gr.update(visible=False) if self.detects else self._seen(image, name),
            gr.update(visible=self.detects),
            found,
        ]
        pairs = zip(self.networks, answers, strict=True)
        mixtures = [_mixture(network, answer) for network, answer in pairs if network.layers]
        yield [*head, *drawn, *["measuring the time per image ..."] * len(answers), *mixtures]
        yield [*head, *drawn, *map(_time, time_per_image(self.networks, image)), *mixtures]

    def _show_example(self, place: int, threshold: float) -> Iterator[list[Update]]:
        yield from self.show(str(self._paths[place]), threshold)

    def redraw(self, found: Found | None, threshold: float) -> list[Image.Image | None]:
        """The pictures of a detector with the objects whose score is above the threshold."""
        if found is None:
            return [None] * len(self.answers)
        return [
            draw_detections(found.image, [entry for entry in objects if entry["score"] > threshold], network.names)
            for network, objects in zip(self.networks, found.objects, strict=True)
        ]

    def _seen(self, image: Image.Image, name: str) -> Update:
        """Enlarged without smoothing, so that the pixels can be told apart."""
        pixels = self.networks[0].seen(image)
        scale = max(1, 224 // pixels.width)
        picture = pixels.resize((scale * pixels.width, scale * pixels.height), Image.Resampling.NEAREST)
        return gr.update(value=picture, label=f"{name}, as the network sees it", visible=True)


def _knowledge(networks: Sequence[DemoNetwork]) -> str:
    classes = networks[0].meta.classes
    kind = "Finds objects of" if networks[0].detects else "Tells apart"
    return f"{kind} {len(classes)} {'class' if len(classes) == 1 else 'classes'}: {shown(', '.join(classes), 200)}."


def _method(device: torch.device) -> str:
    threads = torch.get_num_threads()
    cpu = f"the CPU with {threads} {'thread' if threads == 1 else 'threads'}"
    where = "a CUDA device" if device.type == "cuda" else cpu
    return (
        f"Times are medians of {ROUNDS} rounds in which the networks take turns, after warming up, with one image at a "
        f"time, on {where}."
    )


def _time(timing: Timing) -> str:
    return f"**{timing.median:.3g} ms** per image, quartiles {timing.low:.3g} and {timing.high:.3g}"


def _alert(sentence: str) -> Update:
    return gr.update(value=f'<p class="problem" role="alert">{html.escape(sentence)}</p>', visible=True)


def _mixture(network: DemoNetwork, answer: Answer) -> str:
    title = f"Mixture weights λ of {network.name} for this image: a row for each AN layer, a cell for each component"
    return f"<p>{html.escape(title)}</p>{inline_svg(mixture_picture(answer.mixtures), title)}"
